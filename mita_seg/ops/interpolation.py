"""Bilinear interpolation as a matrix, and which entries of it are not zero."""

import torch
import torch.nn.functional as F
from torch import Tensor


def interpolation_weights(old: int, new: int, align_corners: bool, like: Tensor) -> Tensor:
    """Share of each of `old` entries in each of `new` ones, linearly interpolated.

    Bilinear interpolation acts on rows and columns apart, so two such matrices make it up. Their
    products are cheap, and repeatable in the backward pass: ``interpolate`` adds the gradients of
    all pixels to the small map by atomic additions, in whatever order they arrive.

    Args:
        old, new: Numbers of rows, or of columns, before and after.
        align_corners: As in ``torch.nn.functional.interpolate``.
        like: Gives dtype and device.

    Returns:
        [old, new].
    """
    eye = torch.eye(old, dtype=like.dtype, device=like.device).unsqueeze(0)
    return F.interpolate(eye, new, mode='linear', align_corners=align_corners).squeeze(0)


def source_range(first: int, last: int, old: int, new: int, align_corners: bool) -> slice:
    """The old entries with a share in the new ones from `first` to `last`, or one more each way."""
    if align_corners:  # exact integers, as the numbers of interpolation_weights are rounded
        slope, offset, unit = old - 1, 0, max(new - 1, 1)
    else:
        slope, offset, unit = 2 * old, old - new, 2 * new
    low, high = ((place * slope + offset) // unit for place in (first, last))
    return slice(max(low - 1, 0), min(high + 3, old))
