"""Which keys make up each expert, and which experts each query attends to.

Both choices carry no gradient (arXiv 2602.01219, section on routing).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from .options import MiTAOptions
from .surroundings import in_transform
from .validation import check_heads, check_int, check_num_routed


@torch.no_grad()
def select_experts(key: Tensor, landmarks: Tensor, topk: int) -> Tensor:
    """Indices of the top-k keys of each landmark: the keys that make up its expert.

    Args:
        key: Keys of every token, special ones too, [B, H, N, d].
        landmarks: Landmark queries [B, H, m, d].
        topk: Keys per expert, k; clamped to N.

    Returns:
        int64 indices [B, H, m, k] into the N tokens, ascending. Of equal scores at the boundary
        the lowest indices are kept. Scores are rounded to the dtype of the inputs, those of float16
        to float32; the Triton kernels keep all of theirs in float32, so in lower precision nearly
        equal keys may change places.

    Raises:
        TypeError: Not floating point tensors of one dtype, or `topk` is not an int.
        ValueError: Shapes or devices that differ, or `topk` below 1.
    """
    check_heads(key=key, landmarks=landmarks)
    check_int('topk', topk, 1)
    return top_indices(scores_between(landmarks, key), min(topk, key.shape[2]))


@torch.no_grad()
def route_queries(query: Tensor, landmarks: Tensor, num_routed: int) -> Tensor:
    """Indices of the landmarks with which each query has the largest scores: its experts.

    Args:
        query: Queries [B, H, N, d].
        landmarks: Landmark queries [B, H, m, d].
        num_routed: Experts per query, s, from 1 to m.

    Returns:
        int64 indices [B, H, N, s] into the m landmarks, by falling score; of equal scores the
        lowest index comes first.

    Raises:
        TypeError: Not floating point tensors of one dtype, or `num_routed` is not an int.
        ValueError: Shapes or devices that differ, or `num_routed` out of range.
    """
    check_heads(query=query, landmarks=landmarks)
    check_num_routed(num_routed, landmarks.shape[2])
    return top_landmarks(scores_between(query, landmarks), num_routed)


@torch.no_grad()
def select(
    scores: Tensor, options: MiTAOptions, top: Callable[[Tensor, int], Tensor] | None = None
) -> Tensor:
    """The keys of each expert.

    Args:
        scores: Of the keys under the landmarks, [..., m, N].
        options: What the attention computes.
        top: Makes the choice, (scores, k) -> keys in a form of its own; :func:`top_indices` when
            None.
    """
    return (top or top_indices)(scores, options.topk)


@torch.no_grad()
def route(
    scores: Tensor, options: MiTAOptions, top: Callable[[Tensor, int], Tensor] | None = None
) -> Tensor:
    """The experts of each query, [..., N, s].

    Args:
        scores: Of the queries with the landmarks, [..., N, m].
        options: What the attention computes.
        top: Makes the choice, (scores, s) -> indices; :func:`top_landmarks` when None.
    """
    return (top or top_landmarks)(scores, options.num_routed)


def scores_between(rows: Tensor, others: Tensor) -> Tensor:
    """Products to choose by, rows [..., n, d] with others [..., m, d] -> [..., n, m].

    Those of float16 are in float32: they exceed 65504, the largest float16, long before the scaled
    logits of an attention do.
    """
    if rows.dtype == torch.float16:
        rows, others = rows.float(), others.float()
    return rows @ others.mT


def top_landmarks(scores: Tensor, num_routed: int) -> Tensor:
    """Places of the `num_routed` largest of scores [..., N, m], largest first, [..., N, s]."""
    if num_routed == 1:
        return scores.argmax(-1, keepdim=True)  # the first of equal maxima
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :num_routed]


def in_top(scores: Tensor, topk: int) -> Tensor:
    """Whether each score is among the top-k of its row, ties to the lowest index, bool [..., N].

    The same choice as that of :func:`top_indices`, in fewer and larger operations.
    """
    ranks = _ranks(scores)
    lowest = ranks.topk(topk, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    return ranks >= lowest


def top_indices(scores: Tensor, topk: int) -> Tensor:
    """Exact top-k of the last dimension, [..., N] -> [..., k] ascending, ties to the lowest index.

    Ranking whole rows would take longer than the attention itself. The top-k entries are in the k
    blocks with the largest maxima (of equal maxima, the first blocks): each of these k blocks has
    an entry that ranks before all entries of the other blocks. So rank the block maxima, then the
    entries of k blocks only.
    """
    num_scores = scores.shape[-1]
    block = int(math.sqrt(num_scores / topk))  # balances the two rankings
    if block < 2:
        return _stable_topk(scores, topk)

    blocks = pad(scores, (0, -num_scores % block), value=-math.inf).unflatten(-1, (-1, block))
    top_blocks = _stable_topk(blocks.amax(-1), topk).unsqueeze(-1)  # [..., k, 1]
    offsets = torch.arange(block, device=scores.device)
    candidates = (top_blocks * block + offsets).flatten(-2)  # [..., k * block], ascending
    in_range = candidates.clamp(max=num_scores - 1)
    candidate_scores = scores.gather(-1, in_range).masked_fill(candidates >= num_scores, -math.inf)
    return in_range.gather(-1, _stable_topk(candidate_scores, topk))


def _stable_topk(scores: Tensor, topk: int) -> Tensor:
    largest = _ranks(scores).topk(topk, dim=-1, sorted=False).values
    place = scores.shape[-1] - 1 - (largest & 0xFFFFFFFF)
    return place.sort(dim=-1).values


def _ranks(scores: Tensor) -> Tensor:
    """Different integers in the order of the scores, of equal scores the first place highest.

    torch.topk breaks ties in no fixed order, but these have none. In each, int64 [..., N], the
    upper half is the score and the lower half the place from the end.
    """
    place = torch.arange(scores.shape[-1] - 1, -1, -1, device=scores.device)
    if scores.dtype == torch.float64 or in_transform():  # vmap has no views of other dtypes
        order = scores.sort(dim=-1, descending=True, stable=True).indices
        upper = torch.empty_like(order).scatter_(-1, order, place.expand(order.shape))
    else:
        # Adding 0 makes -0.0 equal 0.0. Other dtypes are exact in float32.
        bits = (scores + scores.new_zeros(1, dtype=torch.float32)).view(torch.int32)
        upper = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # in the order of the scores
    return torch.add(place, upper, alpha=2**32)
