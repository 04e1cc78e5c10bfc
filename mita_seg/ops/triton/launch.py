"""What the launches share."""

import math

import torch
import triton
from torch import Tensor

LOG2E = math.log2(math.e)  # the kernels compute exp2

next_power_of_2, cdiv = triton.next_power_of_2, triton.cdiv


def precision(dtype: torch.dtype) -> str:
    """float32 stays IEEE: no TF32 on the tensor cores."""
    return 'ieee' if dtype == torch.float32 else 'tf32'


def empty_like_query(query: Tensor) -> Tensor:
    """[B, H, N, d], dense, tokens or heads outermost as in the query."""
    batch, heads, tokens, dim = query.shape
    if query.stride(1) < query.stride(2):
        return query.new_empty(batch, tokens, heads, dim).transpose(1, 2)
    return query.new_empty(batch, heads, tokens, dim)
