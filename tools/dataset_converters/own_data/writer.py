"""The files of a data set in MMSegmentation's layout."""

import shutil

import numpy as np
from PIL import Image

from mita_seg.utils.distinct_names import distinct_names
from mita_seg.utils.files import replacing
from mita_seg.utils.full_disk import naming
from mita_seg.utils.pictures import write_picture

from .survey import read_pixels

_IGNORED_COLOUR = (224, 224, 192)  # as in Pascal VOC's files
_SAME = {'.jpeg': '.jpg', '.tiff': '.tif'}


def common_suffix(paths):
    """The ending that images can share: theirs, but for its spelling, or else ``.png``."""
    endings = {_spelling(path) for path in paths}
    return endings.pop() if len(endings) == 1 else '.png'


def write_pairs(pairs, splits, index, palette, folder, suffix, advance=lambda: None):
    """Write ``images/SPLIT/NAME`` and ``annotations/SPLIT/NAME.png``.

    Images of that ending are copied as they are, others become PNG of the same stored pixels.

    Args:
        pairs (Sequence[Pair]): The pairs.
        splits (Sequence[str]): The split of each.
        index (dict[int, int]): The class of each code, 255 for ignored ones.
        palette (ndarray): `[K, 3]`, uint8, RGB, written into the label maps.
        folder (Path): Where to.
        suffix (str): Ending of the images' names.
        advance (Callable[[], None]): Called after each pair.

    Returns:
        list[str]: The name of each, without ending.
    """
    names = distinct_names([str(pair.image) for pair in pairs])
    # One level: the folder of an image said its split, perhaps, which this layout says by itself.
    flat = [names[str(pair.image)].replace('/', '_').replace('\\', '_') for pair in pairs]
    if len(set(flat)) < len(flat):
        flat = [f'{place:05d}_{name}' for place, name in enumerate(flat)]
    codes = np.array(sorted(index))
    classes = np.array([index[code] for code in codes.tolist()], np.uint8)
    # All 256 colours: for fewer, Pillow writes fewer bits, and 255 would become another value.
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)], colours[255] = palette, _IGNORED_COLOUR
    for pair, split, name in zip(pairs, splits, flat, strict=True):
        image = folder / 'images' / split / f'{name}{suffix}'
        labels = folder / 'annotations' / split / f'{name}.png'
        for path in (image, labels):
            path.parent.mkdir(parents=True, exist_ok=True)
        if _spelling(pair.image) == suffix:
            with naming(image, pair.image):  # an error of copying names the source
                shutil.copyfile(pair.image, image)
        else:
            write_picture(image, read_pixels(pair.image))
        read = pair.read_codes()
        values = classes[np.searchsorted(codes, read).clip(max=len(codes) - 1)]
        values[~np.isin(read, codes)] = 255
        picture = Image.fromarray(values)
        picture.putpalette(colours.tobytes())
        with replacing(labels, 'wb') as file:
            picture.save(file, 'PNG')
        advance()
    return flat


def _spelling(path):
    ending = path.suffix.lower()
    return _SAME.get(ending, ending)
