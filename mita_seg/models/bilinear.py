"""Bilinear enlargement as two matrix products."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def enlarge(maps: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Bilinear interpolation that is cheap and repeatable in the backward pass.

    Equal to ``torch.nn.functional.interpolate(mode='bilinear')`` up to rounding. That one adds the
    gradients of all pixels to the small map by atomic additions, in whatever order they arrive; as
    interpolation acts on rows and columns apart, two small matrices do the same.

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
            _weights(old, new, align_corners, maps)
            for old, new in zip(maps.shape[-2:], size, strict=True)
        )
        return rows.transpose(0, 1) @ maps @ columns


def _weights(old: int, new: int, align_corners: bool, like: Tensor) -> Tensor:
    """Share of each old entry in each new one, [old, new]."""
    eye = torch.eye(old, dtype=like.dtype, device=like.device).unsqueeze(0)
    return F.interpolate(eye, new, mode='linear', align_corners=align_corners).squeeze(0)
