"""Label maps, overlays and the list of classes as files."""

import cv2
import numpy as np
from PIL import Image

from mita_seg.utils.files import replacing, taking_place, write_json
from mita_seg.utils.full_disk import raise_unwritten
from mita_seg.utils.palette import colour_labels

from .sources import count_frames

_LONGEST_JPEG = 65500  # pixels a side that libjpeg takes


def write_labels(path, labels, palette, first_value):
    """Write a label map as PNG, with the values that label files of the data set have.

    Args:
        path (Path): The file.
        labels (ndarray): `[h, w]`, indices of classes.
        palette (ndarray): `[K, 3]`, uint8, RGB. Kept in the file where its values fit into 8 bits;
            a file of 16 bits has no colours.
        first_value (int): Value of the first class; those below it are black.
    """
    values = labels.astype(np.int32) + first_value
    if len(palette) + first_value <= 256:
        image = Image.fromarray(values.astype(np.uint8))
        image.putpalette(bytes(3 * first_value) + palette.tobytes())
    else:
        image = Image.fromarray(values.astype(np.uint16))
    _save(path, image, 'PNG')


def write_overlay(path, picture):
    """Write a picture `[h, w, 3]` (uint8, RGB) as JPEG, shrunk where it is too long for one."""
    image = Image.fromarray(picture)
    if max(image.size) > _LONGEST_JPEG:
        scale = _LONGEST_JPEG / max(image.size)
        image = image.resize([max(1, int(side * scale)) for side in image.size])
    _save(path, image, 'JPEG', quality=92)


def write_classes(path, classes, palette, first_value):
    """Write value, name and colour of each class as JSON."""
    rows = zip(classes, palette.tolist(), strict=True)
    write_json(
        path,
        [
            {'value': value, 'name': name, 'colour': colour}
            for value, (name, colour) in enumerate(rows, first_value)
        ],
    )


def overlay(image, labels, palette):
    """Blend an image with the colours of its classes, half and half.

    Args:
        image (ndarray): `[h, w, C]`; blue, green, red, or one channel of grey.
        labels (ndarray): `[h, w]`, indices of classes.
        palette (ndarray): `[K, 3]`, uint8, RGB.

    Returns:
        tuple[ndarray, ndarray]: The image and the blend, `[h, w, 3]`, uint8, RGB.
    """
    shown = image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=2)
    if shown.dtype != np.uint8:
        scale = 255 if shown.max() <= 255 else shown.max()
        shown = (shown / scale * 255).clip(0, 255).astype(np.uint8)
    shown = np.ascontiguousarray(shown[..., ::-1])
    return shown, cv2.addWeighted(shown, 0.5, colour_labels(labels, palette), 0.5, 0)


class OverlayVideo:
    """A video of overlays, MPEG-4 in ``.mp4``; a last odd row or column may not be shown.

    A context manager: the file is there whole when the block has ended, or not at all.

    Args:
        path (Path): The file.
        size (tuple[int, int]): Width and height, pixels.
        rate (float): Frames a second.

    Raises:
        OSError: OpenCV cannot write it.
    """

    def __init__(self, path, size, rate):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._frames = path, 0
        # FFmpeg chooses the format by the ending, so the temporary name keeps it.
        self._temporary = path.with_name(f'.{path.name}.tmp.mp4')
        self._writer = cv2.VideoWriter(
            str(self._temporary), cv2.VideoWriter_fourcc(*'mp4v'), rate, size
        )
        if not self._writer.isOpened():
            self._temporary.unlink(missing_ok=True)
            raise_unwritten(path)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self._writer.release()
        if error is not None:
            self._temporary.unlink(missing_ok=True)
            return
        with taking_place(self._temporary, self._path):
            if count_frames(str(self._temporary)) < self._frames:
                raise_unwritten(self._path)

    def write(self, picture):
        """Add a frame `[h, w, 3]`, uint8, RGB."""
        self._writer.write(picture[..., ::-1])
        self._frames += 1


def _save(path, image, kind, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, 'wb') as file:
        image.save(file, kind, **options)
