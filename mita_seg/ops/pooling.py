"""Landmark queries: the query map, averaged over the windows of a coarse grid."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from . import exporting
from .options import Pooling, make_pooling
from .surroundings import in_transform, is_exporting
from .tracing import traced_pooling
from .triton.support import unsupported_reason
from .validation import check_grid, check_heads, check_pair


def pool_landmarks(
    query: Tensor, grid: Sequence[int], num_landmarks: Sequence[int], *, start: int = 0
) -> Tensor:
    """Pool landmark queries from the patch tokens of the query map.

    Equal to adaptive average pooling of the [h, w] map to [mh, mw]: window i of an axis runs from
    floor(i * h / mh) to ceil((i + 1) * h / mh), so any size works, also h < mh (windows then
    repeat). Tokens outside [start, start + h * w), such as a class token, are never pooled.
    Source: arXiv 2602.01219, Algorithm 1.

    Args:
        query: Floating point tensor [B, H, N, d].
        grid: Patch grid (h, w), row-major in the tokens.
        num_landmarks: Landmark grid (mh, mw).
        start: Index of the first patch token.

    Returns:
        Landmarks [B, H, mh * mw, d], row-major, in the dtype of `query`.

    Raises:
        TypeError: `query` is not a floating point tensor, or a size is not an int.
        ValueError: Wrong rank, a size below 1, or a grid that exceeds the tokens.
    """
    check_heads(query=query)
    check_pair('num_landmarks', num_landmarks)
    check_grid(grid, start, query.shape[2])
    return pool(query, make_pooling(grid, num_landmarks, start))


def pool(query: Tensor, pooling: Pooling) -> Tensor:
    """:func:`pool_landmarks` of arguments that were checked, by what suits them."""
    if 0 in query.shape[:2]:  # which kernels don't take
        return query[:, :, :1].expand(-1, -1, pooling.num_landmarks, -1)
    # The kernel's operator has no rules for torch.func.
    in_torch = torch.jit.is_tracing() or is_exporting() or in_transform()
    if query.is_cuda and not in_torch and unsupported_reason(query) is None:
        from .triton.op import triton_pool  # needs Triton

        return triton_pool(query, list(pooling))
    return pool_in_torch(query, pooling)


def adaptive_windows(size: int, count: int) -> list[tuple[int, int]]:
    """Begin and end of each of the `count` windows that an axis of `size` is pooled from."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def pool_in_torch(query: Tensor, pooling: Pooling) -> Tensor:
    """The same in torch operations."""
    batch, heads, _, dim = query.shape
    height, width, landmark_height, landmark_width, start = pooling
    num_landmarks = landmark_height, landmark_width
    patches = query[:, :, start : start + height * width]
    patch_map = patches.transpose(2, 3).reshape(batch, heads * dim, height, width)
    if is_exporting():
        pooled = exporting.pool(patch_map, *num_landmarks)
    elif torch.jit.is_tracing():  # one node in the graph, which counts no FLOPs
        pooled = traced_pooling(patch_map, *num_landmarks)
    else:
        pooled = adaptive_avg_pool2d(patch_map, num_landmarks)
    return pooled.reshape(batch, heads, dim, -1).transpose(2, 3)
