"""The remainder: one key for all keys outside of an expert, as its landmark sees them.

A query may have any weight on the keys outside of its expert. What these add up to is known for one
query, the landmark: R = sum of exp(c L K^T), and with the weights P = softmax(c L K^T) the mean key
P K and the mean value P V. The log of R is a smooth function of the query, with the gradient c P K.
So for a query Q near the landmark log R is about log R + c (Q - L) . P K, its tangent. That is the
logit with one more key, the mean key, plus a number of the expert's: log R - c L . P K, which is
the entropy of P.

Without the tangent: Vyas, Katharopoulos and Fleuret, "Fast Transformers with Clustered Attention",
NeurIPS 2020.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Remainder(NamedTuple):
    """What stands for the keys outside of each expert; a query Q has the logit bias + c Q . key."""

    bias: Tensor  # log R - c L . key, [..., m, 1]
    key: Tensor  # mean keys [..., m, d]
    value: Tensor  # mean values [..., m, d]


def leave_out(logits: Tensor, experts: Tensor) -> Tensor:
    """logits [..., m, N] with the lowest number at the keys of the experts [..., m, k]."""
    # Finite, as a softmax over nothing is NaN; half, so that a sum with it is finite, too.
    return logits.scatter(-1, experts, torch.finfo(logits.dtype).min / 2)


def summarize(
    logits: Tensor, experts: Tensor, key: Tensor, value: Tensor, landmarks: Tensor, scale: float
) -> Remainder:
    """The remainder of each expert.

    Args:
        logits: c L K^T of all keys, [..., m, N], in the precision of the bias.
        experts: Keys of each expert, int64 [..., m, k], in any order.
        key, value: [..., N, d].
        landmarks: [..., m, d].
        scale: c.

    Returns:
        Its key and value in the dtype of `key`. If an expert has all keys, its bias is so low that
        no query gives the remainder any weight.
    """
    outside = leave_out(logits, experts)
    weights = outside.softmax(-1).to(key.dtype)
    mean_key, mean_value = weights @ key, weights @ value
    at_landmark = (scale * landmarks.to(logits.dtype) * mean_key).sum(-1, keepdim=True)
    return Remainder(outside.logsumexp(-1, keepdim=True) - at_landmark, mean_key, mean_value)
