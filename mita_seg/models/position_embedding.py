"""Resizing a learned position embedding to another patch grid."""

from collections.abc import Sequence
from math import isqrt

import torch
from mmengine.logging import print_log
from mmseg.models.utils import resize
from torch import Tensor


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
    patch_map = resize(patch_map, size=tuple(new_grid), align_corners=False, mode=mode)
    return torch.cat((class_token, patch_map.flatten(2).mT), dim=1)


def fit_loaded_position_embedding(
    embedding: Tensor, own: Tensor, own_grid: Sequence[int], mode: str
) -> Tensor:
    """Resize a checkpoint's position embedding, of a square grid, to a model's.

    Args:
        embedding: The checkpoint's, [1, 1 + side * side, C].
        own: The model's, [1, 1 + h * w, C].
        own_grid: The model's patch grid (h, w).
        mode: Interpolation mode.

    Returns:
        [1, 1 + h * w, C]; one of another width is left as it is, for the loader to report.

    Raises:
        ValueError: It is for another number of patches, and not for a square grid.
    """
    if embedding.ndim != 3 or embedding.shape[2] != own.shape[2]:
        return embedding
    if embedding.shape == own.shape:
        return embedding
    side = isqrt(embedding.shape[1] - 1)
    if side * side != embedding.shape[1] - 1:
        raise ValueError(
            f'pos_embed of shape {list(embedding.shape)} is not for a square grid of patches and '
            f'one class token, so it cannot be resized to {list(own.shape)}'
        )
    print_log(
        f'Resize the position embedding from {side}x{side} to {own_grid[0]}x{own_grid[1]} patches',
        logger='current',
    )
    return resize_position_embedding(embedding, (side, side), own_grid, mode)
