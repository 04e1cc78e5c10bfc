"""Cross entropy of enlarged logits in torch operations, a few rows of pixels at a time.

Enlarged logits of one chunk are all that exists of them at any time. The backward pass computes
them again.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .autocast import without_autocast
from .interpolation import interpolation_weights, source_range

# Enlarged logits of a chunk. A CPU is quickest with what its cache holds, a GPU with few launches.
CPU_CHUNK = 2**20
GPU_CHUNK = 2**24


class _Chunk(NamedTuple):
    pixels: slice  # rows of the labels
    source: slice  # rows of the logits that have a share in them
    rows: Tensor  # their shares, [source rows, pixel rows]


def chunked_cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int, align_corners: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, which pixels are right, and log-sum-exp of the enlarged logits, [B, H, W] each.

    Arguments as in :func:`mita_seg.ops.upsampled_cross_entropy`; float64 where the logits are,
    else float32.
    """
    with without_autocast(logits.device.type):
        logits = _widen(logits)
        losses, lse = logits.new_empty(labels.shape), logits.new_empty(labels.shape)
        right = torch.empty(labels.shape, dtype=torch.bool, device=labels.device)
        columns = interpolation_weights(logits.shape[3], labels.shape[2], align_corners, logits)
        for chunk in _chunks(logits, labels, align_corners):
            enlarged = _enlarge(logits, chunk, columns)
            label = labels[:, chunk.pixels].long()
            counts, known = label != ignore_index, _is_class(label, logits.shape[1])
            total = enlarged.logsumexp(1)  # [B, rows, W]
            picked = enlarged.gather(1, label.where(known, 0).unsqueeze(1)).squeeze(1)
            loss = (total - picked).masked_fill(~known, torch.nan)
            losses[:, chunk.pixels] = loss.where(counts, 0)
            right[:, chunk.pixels] = (enlarged.argmax(1) == label) & counts
            lse[:, chunk.pixels] = total
        return losses, right, lse


def chunked_cross_entropy_backward(
    grad: Tensor,
    logits: Tensor,
    labels: Tensor,
    lse: Tensor,
    ignore_index: int,
    align_corners: bool,
) -> Tensor:
    """Gradient of the logits [B, C, h, w], from that of the losses [B, H, W]."""
    with without_autocast(logits.device.type):
        wide = _widen(logits)
        grad_logits = wide.new_zeros(wide.shape)  # dense, whatever the strides
        columns = interpolation_weights(wide.shape[3], labels.shape[2], align_corners, wide)
        for chunk in _chunks(wide, labels, align_corners):
            label = labels[:, chunk.pixels].long().unsqueeze(1)
            counts = (label != ignore_index) & _is_class(label, wide.shape[1])
            label = label.where(counts, 0)
            factor = grad[:, chunk.pixels].unsqueeze(1).where(counts, 0)  # [B, 1, rows, W]
            slope = _enlarge(wide, chunk, columns).sub_(lse[:, chunk.pixels].unsqueeze(1)).exp_()
            slope.scatter_(1, label, slope.gather(1, label) - 1).mul_(factor)  # [B, C, rows, W]
            grad_logits[:, :, chunk.source] += chunk.rows @ (slope @ columns.transpose(0, 1))
        return grad_logits.to(logits.dtype)


def _widen(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _is_class(label: Tensor, num_classes: int) -> Tensor:
    return (label >= 0) & (label < num_classes)


def _chunks(logits: Tensor, labels: Tensor, align_corners: bool) -> Iterator[_Chunk]:
    batch, classes, old = logits.shape[:3]
    new, width = labels.shape[1:]
    rows = interpolation_weights(old, new, align_corners, logits)
    most = CPU_CHUNK if logits.device.type == 'cpu' else GPU_CHUNK
    step = max(most // max(batch * classes * width, 1), 1)
    for start in range(0, new, step):
        stop = min(start + step, new)
        source = source_range(start, stop - 1, old, new, align_corners)
        yield _Chunk(slice(start, stop), source, rows[source, start:stop])


def _enlarge(logits: Tensor, chunk: _Chunk, columns: Tensor) -> Tensor:
    """The chunk's logits [B, C, rows, W], a new tensor."""
    return chunk.rows.transpose(0, 1) @ (logits[:, :, chunk.source] @ columns)
