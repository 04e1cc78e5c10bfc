"""Whether the kernels can run a call, and if not, why. Needs no Triton."""

import functools
import importlib.util
import os
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ..surroundings import constant_while_compiling, in_forward_mode
from .gpu import LEAST_CAPABILITY, LEAST_SHARED_MEMORY, gpu_of

MAX_TOKENS = 2**20
MAX_ROWS = 1024  # landmarks, and keys per expert
LEAST_SCALE = 2.0**-126  # of float32's numbers that no GPU reads as 0
MAX_IMAGES = 2**16 - 1  # of a batch: one dimension of a launch
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels on the CPU (TRITON_INTERPRET=1)."""
    return os.environ.get('TRITON_INTERPRET') == '1'


_HAS_TRITON = importlib.util.find_spec('triton') is not None


@constant_while_compiling
def _what_gpu_lacks(index: int) -> str | None:
    gpu = gpu_of(torch.device('cuda', index))
    if gpu.capability >= LEAST_CAPABILITY and gpu.shared_memory >= LEAST_SHARED_MEMORY:
        return None
    return (
        f'it needs a GPU of compute capability {LEAST_CAPABILITY / 10} or higher with '
        f'{LEAST_SHARED_MEMORY // 1024} KiB of shared memory per program (Ampere or newer); '
        f'cuda:{index} has {gpu.capability / 10} and {gpu.shared_memory // 1024} KiB'
    )


def _unsupported_tensor_reason(tensor: Tensor) -> str | None:
    """The reason why no kernel can run on a tensor, whatever its shape; None if one can."""
    if not _HAS_TRITON:
        return 'Triton is not installed'
    if tensor.device.type != 'cuda' and not interpreted():
        return f'it needs CUDA tensors, or TRITON_INTERPRET=1 for others; got {tensor.device}'
    if tensor.device.type == 'cuda':
        reason = _what_gpu_lacks(tensor.device.index or 0)
        if reason:
            return reason
    if tensor.dtype not in _DTYPES:
        return f'it takes float32, bfloat16 and float16; got {tensor.dtype}'
    if tensor.dtype == torch.bfloat16 and interpreted():
        return "Triton's interpreter has no bfloat16"
    return None


def unsupported_reason(
    query: Tensor,
    num_landmarks: int = 1,
    topk: int = 0,
    scales: tuple[float, ...] = (),
) -> str | None:
    """The reason why the kernels can't run on `query` [B, H, N, d]; None if they can."""
    if in_forward_mode() and _HAS_TRITON:
        return "it has no derivatives in forward mode (jvp), backend='tiled' has"
    reason = _unsupported_tensor_reason(query)
    if reason:
        return reason
    dim, tokens = query.shape[3], query.shape[2]
    if dim % 8 or not 16 <= dim <= 128:
        return f'it takes head dimensions from 16 to 128 that are multiples of 8; got {dim}'
    if tokens > MAX_TOKENS:
        return f'it takes at most {MAX_TOKENS} tokens; got {tokens}'
    if any(scale <= 0 for scale in scales):
        return f'it takes positive scales; got {" and ".join(map(str, scales))}'
    if any(scale < LEAST_SCALE for scale in scales):
        return (
            f'it takes scales that float32 holds, from {LEAST_SCALE:.3g} on; got '
            f'{" and ".join(map(str, scales))}'
        )
    if max(num_landmarks, topk) > MAX_ROWS:
        return (
            f'it takes at most {MAX_ROWS} landmarks and keys per expert; got {num_landmarks} and '
            f'{topk}'
        )
    return None


def unsupported_loss_reason(logits: Tensor, size: Sequence[int]) -> str | None:
    """The same of the loss, on logits [B, C, h, w] and labels of a size (H, W)."""
    reason = _unsupported_tensor_reason(logits)
    if reason:
        return reason
    _, classes, *old = logits.shape
    if any(small > large for small, large in zip(old, size, strict=True)):
        return f'it takes labels no smaller than the logits; got {tuple(size)} and {tuple(old)}'
    # Positions and offsets within an image are counted in 32 bits.
    most = max(2 * (small + 33) * large for small, large in zip(old, size, strict=True))
    most = max(most, size[0] * size[1], (4 * classes + 64) * (old[0] + 1) * (old[1] + 1))
    if most >= 2**31 or max(logits.shape[0], old[0] + 1) > MAX_IMAGES:
        return (
            f'it takes at most {MAX_IMAGES} images, and offsets of 32 bits; got logits '
            f'{tuple(logits.shape)} and labels {tuple(size)}'
        )
    return None


@constant_while_compiling
def warn_once(message: str) -> None:
    """Warn, the first time alone; also while torch.compile traces."""
    _warn(message)


@functools.cache
def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)
