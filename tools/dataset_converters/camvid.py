"""CamVid in the layout of ``CamVidDataset``, from the copy in the SegNet tutorial."""

from pathlib import Path

import cv2

from mita_seg.datasets.camvid import CLASSES
from mita_seg.datasets.loading import IGNORE
from mita_seg.utils.files import replacing
from mita_seg.utils.pictures import write_picture

PARTS = {'train': 367, 'val': 101, 'test': 233}
_UNLABELLED = len(CLASSES)  # in SegNet's files


def check_source(source):
    """Check that a folder holds SegNet's copy: ``{part}/*.png`` and ``{part}annot/*.png``.

    Args:
        source (str | os.PathLike): The folder ``CamVid`` of the SegNet tutorial.

    Raises:
        FileNotFoundError: A folder is missing, or holds other files than expected.
    """
    for part, expected in PARTS.items():
        names = [
            {path.name for path in (Path(source) / folder).glob('*.png')}
            for folder in (part, f'{part}annot')
        ]
        if names[0] != names[1] or len(names[0]) != expected:
            raise FileNotFoundError(
                f'{str(source)!r} is not the folder CamVid of the SegNet tutorial: expected '
                f'{expected} images of the same names in {part} and {part}annot, '
                f'got {len(names[0])} and {len(names[1])}'
            )


def write_camvid(source, out, on_image=None):
    """Write the data set: images as JPEG of quality 92, labels with 255 for "not labelled".

    Args:
        source (str | os.PathLike): The folder ``CamVid`` of the SegNet tutorial, checked.
        out (str | os.PathLike): The folder to write.
        on_image (Callable, optional): Called after each image.

    Raises:
        ValueError: A file can't be decoded, or labels are outside 0..11.
        OSError: A file can't be written.
    """
    source, out = Path(source), Path(out)
    for part in PARTS:
        for folder in ('images', 'annotations'):
            (out / folder / part).mkdir(parents=True, exist_ok=True)
        paths = sorted((source / part).glob('*.png'))
        for path in paths:
            labels = _read(source / f'{part}annot' / path.name, cv2.IMREAD_UNCHANGED)
            if labels.ndim != 2 or labels.max() > _UNLABELLED:
                raise ValueError(f'{part}annot/{path.name}: expected one channel of 0..11')
            labels[labels == _UNLABELLED] = IGNORE
            write_picture(out / 'annotations' / part / path.name, labels)
            image = _read(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            name = out / 'images' / part / f'{path.stem}.jpg'
            write_picture(name, image, cv2.IMWRITE_JPEG_QUALITY, 92)
            if on_image is not None:
                on_image()
        # The list of a part is written last: it says that the part is complete.
        with replacing(out / f'{part}.txt') as file:
            file.writelines(f'{path.stem}\n' for path in paths)


def _read(path, flags):
    pixels = cv2.imread(str(path), flags)
    if pixels is None:
        raise ValueError(f'{str(path)!r} cannot be decoded')
    return pixels
