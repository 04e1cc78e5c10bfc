"""Everything read once: sizes, codes, what does not fit."""

from collections import Counter
from dataclasses import dataclass, field

import cv2
import numpy as np
from mmcv import imread

from mita_seg.datasets.loading import check_header
from mita_seg.datasets.orientation import exif_orientation


@dataclass
class Survey:
    """What reading a folder's pairs showed.

    Attributes:
        pairs (list[Pair]): Those that can be read and are of one size.
        sizes (list[tuple[int, int]]): Height and width of each.
        codes (list[dict[int, int]]): Pixels of each code in each.
        turned (list[str]): The images with an EXIF orientation.
    """

    pairs: list = field(default_factory=list)
    sizes: list = field(default_factory=list)
    codes: list = field(default_factory=list)
    turned: list = field(default_factory=list)

    @property
    def pixels(self):
        """Pixels of each code in all."""
        return sum(map(Counter, self.codes), Counter())

    def describe_sizes(self):
        """A few words: the size, or the range of sizes."""
        heights, widths = np.array(self.sizes).T
        if len(set(self.sizes)) == 1:
            return f'{widths[0]}x{heights[0]} pixels each'
        middle = f'{int(np.median(widths))}x{int(np.median(heights))}'
        return (
            f'{widths.min()} to {widths.max()} wide, {heights.min()} to {heights.max()} high, '
            f'{middle} in the middle'
        )


def survey(found, advance=lambda: None):
    """Read every image and mask.

    Args:
        found (Found): What the folder holds; its `problems` grow.
        advance (Callable[[], None]): Called after each pair.

    Returns:
        Survey: What was seen.

    Raises:
        ValueError: No pair can be used.
    """
    seen = Survey()
    for pair in found.pairs:
        _look(pair, found, seen)
        advance()
    if not seen.pairs:
        reasons = '; '.join(f'{reason}: {len(files)}' for reason, files in found.problems.items())
        raise ValueError(f'no pair can be used: {reasons}')
    return seen


def read_pixels(path):
    """An image as its pixels are stored, `[h, w, 3]`, uint8; blue, green, red. None if damaged."""
    try:
        check_header(str(path))
        return imread(str(path), 'color_ignore_orientation', backend='cv2')
    except (cv2.error, OSError, ValueError):
        return None


def _look(pair, found, seen):
    image = read_pixels(pair.image)
    if image is None:
        found.leave_out('image that cannot be read', pair.image)
        return
    try:
        codes = pair.read_codes()
    except ValueError as error:
        found.leave_out(str(error), pair.image)
        return
    if codes.shape != image.shape[:2]:
        turned = codes.shape == image.shape[1::-1] and _orientation(pair.image) != 1
        why = ' (drawn on the image as EXIF turns it)' if turned else ''
        found.leave_out(f'mask of another size than its image{why}', pair.image)
        return
    values, counts = np.unique(codes, return_counts=True)
    seen.pairs.append(pair)
    seen.sizes.append(codes.shape)
    seen.codes.append(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    if _orientation(pair.image) != 1:
        seen.turned.append(str(pair.image))


def _orientation(path):
    try:
        return exif_orientation(path)
    except Exception:  # of a kind that Pillow does not know
        return 1
