"""What several launches need."""

import math

import torch
from torch import Tensor

LOG2E = math.log2(math.e)  # the kernels compute exp2


def cdiv(dividend: int, divisor: int) -> int:
    """Quotient, rounded up."""
    return -(dividend // -divisor)


def next_power_of_2(number: int) -> int:
    """The least power of 2 that is at least `number`, which is positive."""
    return 1 << (number - 1).bit_length()


def precision(dtype: torch.dtype) -> str:
    """float32 stays IEEE: no TF32 on the tensor cores."""
    return 'ieee' if dtype == torch.float32 else 'tf32'


def empty_like_query(query: Tensor) -> Tensor:
    """[B, H, N, d], dense, tokens or heads outermost as in the query."""
    batch, heads, tokens, dim = query.shape
    if query.stride(1) < query.stride(2):
        return query.new_empty(batch, tokens, heads, dim).transpose(1, 2)
    return query.new_empty(batch, heads, tokens, dim)


def is_wide(tensor: Tensor) -> bool:
    """Whether offsets within a head of a tensor [B, H, N, d] need 64 bits.

    To be asked for results too: they are dense and may need more than arguments with strides of 0.
    """
    tokens, dim = tensor.shape[2:]
    return tokens * tensor.stride(2) + dim * tensor.stride(3) >= 2**31
