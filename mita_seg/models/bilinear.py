"""Bilinear enlargement as two matrix products."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mita_seg.ops.interpolation import interpolation_weights


def enlarge(maps: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Bilinear interpolation that is cheap and repeatable in the backward pass.

    Equal to ``torch.nn.functional.interpolate(mode='bilinear')`` up to rounding.

    Args:
        maps: [B, C, h, w], floating point; computed in float32 at least.
        size: (H, W) wanted.
        align_corners: As in ``interpolate``.

    Returns:
        [B, C, H, W].
    """
    with torch.autocast(maps.device.type, enabled=False):
        maps = maps if maps.dtype == torch.float64 else maps.float()
        rows, columns = (
            interpolation_weights(old, new, align_corners, maps)
            for old, new in zip(maps.shape[-2:], size, strict=True)
        )
        return rows.transpose(0, 1) @ maps @ columns
