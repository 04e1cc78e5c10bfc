"""Full softmax attention: the baseline."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .attention import Attention


def full_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(d^-1/2 Q K^T) V; all [B, H, N, d]."""
    return F.scaled_dot_product_attention(q, k, v)


class FullAttention(Attention):
    """Every token attends to every token, by torch's fused scaled dot product attention.

    Arguments and call as in :class:`Attention`; `grid` and `start` matter to the DWC only.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, grid: Sequence[int], start: int) -> Tensor:
        """softmax(d^-1/2 Q K^T) V; all [B, H, N, d]."""
        return full_attention(q, k, v)
