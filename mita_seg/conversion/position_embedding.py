"""Resizing a learned position embedding to another patch grid."""

from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def resize_position_embedding(
    embedding: Tensor, grid: Sequence[int], new_grid: Sequence[int], mode: str = 'bicubic'
) -> Tensor:
    """Interpolate the patches' entries; that of the class token stays.

    Args:
        embedding: [1, 1 + h * w, C], the class token's entry first.
        grid: Its patch grid (h, w).
        new_grid: The patch grid (h', w') wanted.
        mode: Interpolation mode of ``torch.nn.functional.interpolate``.

    Returns:
        [1, 1 + h' * w', C].
    """
    class_token, patches = embedding[:, :1], embedding[:, 1:]
    patch_map = patches.mT.unflatten(-1, tuple(grid))  # [1, C, h, w]
    patch_map = interpolate(patch_map, size=tuple(new_grid), mode=mode, align_corners=False)
    return torch.cat((class_token, patch_map.flatten(2).mT), dim=1)


def fit_position_embedding(
    embedding: Tensor, new_grid: Sequence[int], mode: str = 'bicubic'
) -> Tensor:
    """Resize a checkpoint's position embedding, of a square grid, to a model's patch grid.

    Args:
        embedding: The checkpoint's, [1, 1 + side * side, C].
        new_grid: The model's patch grid (h, w).
        mode: Interpolation mode.

    Returns:
        [1, 1 + h * w, C]; one that has as many entries already is returned as it is.

    Raises:
        ValueError: It is for another number of patches, and not for a square grid.
    """
    height, width = new_grid
    if embedding.shape[1] == 1 + height * width:
        return embedding
    side = square_side(embedding.shape[1] - 1)
    if not side:
        raise ValueError(
            f'pos_embed of shape {list(embedding.shape)} is not for a square grid of patches and '
            f'one class token, so it cannot be resized to {height}x{width} patches'
        )
    return resize_position_embedding(embedding, (side, side), new_grid, mode)


def square_side(count: int) -> int | None:
    """Side of the square that so many patches make; None if they make none."""
    side = isqrt(max(count, 0))
    return side if side and side * side == count else None
