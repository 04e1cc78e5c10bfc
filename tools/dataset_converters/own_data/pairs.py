"""Pairs of an image and its mask."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

# Of an image, as for the loading of data sets.
MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS
IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
_SPLITS = {
    'training': ('train', 'training', 'trn'),
    'validation': ('val', 'valid', 'validation', 'dev'),
    'test': ('test', 'testing'),
}


@dataclass
class Pair:
    """An image and where its mask is.

    Attributes:
        image (Path): The image.
        mask (Path): The file that holds its mask, perhaps with others.
        read_codes (Callable): Gives the codes of the mask, `[h, w]`, integers.
        split (str | None): ``'training'``, ``'validation'`` or ``'test'`` where folders or files
            are named so.
    """

    image: Path
    mask: Path
    read_codes: Callable[[], np.ndarray]
    split: str | None = None


@dataclass
class Found:
    """What a folder holds.

    Attributes:
        kind (str): In words, what the masks are.
        pairs (list[Pair]): The pairs.
        problems (dict[str, list[str]]): What is left out, by reason.
        names (dict[int, str]): The class of each code, where the format says it. Code 0 stands
            for pixels without annotation then.
        by_colour (bool): Whether codes are colours, red * 65536 + green * 256 + blue.
        palette (dict[int, tuple]): Colours of codes, where the files say them.
    """

    kind: str
    pairs: list[Pair]
    problems: dict[str, list[str]] = field(default_factory=dict)
    names: dict[int, str] | None = None
    by_colour: bool = False
    palette: dict[int, tuple] = field(default_factory=dict)

    def leave_out(self, reason, file):
        """Note a file that is left out."""
        self.problems.setdefault(reason, []).append(str(file))


def check_entries(file, name, entries, /, **kinds):
    """Make sure that a list of an annotation file holds what it has to.

    Args:
        file (Path): The file.
        name (str): Name of the list in it.
        entries: The list; the file may hold anything in its place.
        **kinds (type | tuple): The type of each value that an entry must have.

    Raises:
        ValueError: It is no list of objects with such values.
    """
    if not isinstance(entries, list):
        raise ValueError(f'{str(file)!r}: {name} is no list')
    for place, entry in enumerate(entries):
        for key, kind in kinds.items():
            value = entry.get(key) if isinstance(entry, dict) else None
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f'{str(file)!r}: {name}[{place}] has no valid {key}')


def empty_canvas(height, width):
    """A map of codes `[height, width]` to be drawn on.

    Raises:
        ValueError: An annotation file says another size than an image can have.
    """
    sizes = (height, width)
    sound = all(type(side) is int and side > 0 for side in sizes)
    if not sound or height * width > MOST_PIXELS:
        raise ValueError('image with a damaged annotation')
    return np.zeros(sizes, np.int32)


def split_named(path):
    """The split that a relative path names.

    Args:
        path (str | Path): Such as ``images/train/a.jpg`` or ``instances_val2017.json``.

    Returns:
        str | None: ``'training'``, ``'validation'``, ``'test'`` or None.
    """
    path = Path(path)
    words = [part.lower() for part in path.parts[:-1]]
    if path.suffix == '.json':
        words += path.stem.lower().replace('-', '_').split('_')
    for word in reversed(words):
        for split, spellings in _SPLITS.items():
            if word.rstrip('0123456789') in spellings:
                return split
    return None
