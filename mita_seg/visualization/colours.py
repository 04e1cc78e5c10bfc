"""Colours of experts and of values, and maps of patches as pictures."""

import colorsys

import matplotlib
import numpy as np
from PIL import Image


def expert_colours(landmark_grid):
    """A colour for each landmark by its place: the hue by columns, the lightness by rows.

    Args:
        landmark_grid (tuple[int, int]): (mh, mw).

    Returns:
        ndarray: uint8 `[m, 3]`.
    """
    rows, columns = landmark_grid
    colours = [
        colorsys.hls_to_rgb(
            0.86 * column / columns,
            0.32 + 0.42 * (row + 0.5) / rows,
            # Neighbours of the same hue differ in more than lightness.
            0.95 if (row + column) % 2 else 0.55,
        )
        for row in range(rows)
        for column in range(columns)
    ]
    return np.rint(255 * np.array(colours)).astype(np.uint8)


def value_colours(values, name='viridis'):
    """Colours of numbers from 0 to 1.

    Args:
        values (ndarray): `[...]`.
        name (str): A colour map of matplotlib.

    Returns:
        ndarray: uint8 `[..., 3]`.
    """
    colours = matplotlib.colormaps[name](np.asarray(values, dtype=np.float64))
    return np.rint(255 * colours[..., :3]).astype(np.uint8)


def fit_image(image, grid, patch):
    """Cut or stretch an image to a patch grid, for drawing.

    Args:
        image (ndarray): uint8 `[H, W, 3]`.
        grid (tuple[int, int]): Patches (h, w).
        patch (int): Pixels a side of a patch.

    Returns:
        ndarray: uint8 `[h * patch, w * patch, 3]`.
    """
    size = (grid[1] * patch, grid[0] * patch)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def enlarge(cells, patch):
    """Make each cell of `[h, w, ...]` a square of `patch` pixels a side."""
    return cells.repeat(patch, 0).repeat(patch, 1)


def tint(image, colours, strength=0.6):
    """Lay colours over the grey version of an image.

    Args:
        image (ndarray): uint8 `[H, W, 3]`.
        colours (ndarray): uint8 `[H, W, 3]`.
        strength (float | ndarray): Of the colours, from 0 to 1; a number or `[H, W, 1]`.

    Returns:
        ndarray: uint8 `[H, W, 3]`.
    """
    grey = image.mean(-1, keepdims=True)
    return np.rint((1 - strength) * grey + strength * colours).astype(np.uint8)
