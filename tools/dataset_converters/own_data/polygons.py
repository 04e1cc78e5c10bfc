"""Outlines filled into maps of codes."""

import numpy as np


def fill(codes, outline, code):
    """Fill an outline, in place: the pixels whose centres are inside.

    Where an outline crosses itself, what is inside twice is outside.

    Args:
        codes (ndarray): `[h, w]`.
        outline (Sequence): x and y in turn, or pairs of them, pixels; (0, 0) is the upper left
            corner of the first pixel.
        code (int): What to fill it with.

    Raises:
        ValueError: There are fewer than three points, or they are no numbers.
    """
    points = np.asarray(outline, float).reshape(-1, 2)
    if len(points) < 3 or not np.isfinite(points).all():
        raise ValueError('an outline needs at least three points')
    x, y = points.T
    next_x, next_y = np.roll(points, -1, axis=0).T
    height, width = codes.shape
    first, last = np.clip(np.ceil([y.min() - 0.5, y.max() - 0.5]), 0, height).astype(int)
    centres = np.arange(first, last)[:, None] + 0.5
    rows, edges = np.nonzero((y <= centres) != (next_y <= centres))
    slope = (next_x - x)[edges] / (next_y - y)[edges]
    crossings = x[edges] + (centres[rows, 0] - y[edges]) * slope
    columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(int)
    crossed = np.zeros((last - first, width + 1), np.int32)
    np.add.at(crossed, (rows, columns), 1)
    inside = crossed.cumsum(axis=1)[:, :width] % 2 == 1
    codes[first:last][inside] = code


def fill_circle(codes, centre, radius, code):
    """Fill a circle, in place: the pixels whose centres are inside.

    Args:
        codes (ndarray): `[h, w]`.
        centre (Sequence[float]): x and y, pixels, as above.
        radius (float): Pixels.
        code (int): What to fill it with.
    """
    rows, columns = np.indices(codes.shape) + 0.5
    codes[np.hypot(columns - centre[0], rows - centre[1]) <= radius] = code
