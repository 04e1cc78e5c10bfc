"""The position embedding of sines and cosines, for a grid of patches."""

from collections.abc import Sequence

import torch
from torch import Tensor


def sine_cosine_embedding(
    grid: Sequence[int], channels: int, temperature: float = 10000.0
) -> Tensor:
    """Sines and cosines of the row and of the column, at geometric frequencies.

    Source: Vaswani et al., arXiv 1706.03762; in two dimensions Chen et al., arXiv 2104.02057.

    Args:
        grid: Patches (h, w).
        channels: Channels C; a multiple of 4.
        temperature: Frequencies go from 1 down to almost 1 / temperature, in radians a patch.

    Returns:
        [h * w, C] in float32: sines and cosines of the column, then of the row.

    Raises:
        ValueError: 4 does not divide `channels`.
    """
    if channels % 4:
        raise ValueError(f'channels must be a multiple of 4, got {channels}')
    count = channels // 4
    frequencies = temperature ** (-torch.arange(count, dtype=torch.float64) / count)
    rows, columns = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float64) for size in grid), indexing='ij'
    )
    angles = [position.reshape(-1, 1) * frequencies for position in (columns, rows)]
    return torch.cat([wave for a in angles for wave in (a.sin(), a.cos())], dim=1).float()
