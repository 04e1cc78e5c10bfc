"""What a recorded attention did, as NumPy arrays to look at.

B images, H heads, N tokens, m landmarks, k keys per expert, s experts per query, patch grid (h, w).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mita_seg.ops.pooling import adaptive_windows
from mita_seg.ops.reference import (
    keys_of_queries,
    routed_logits,
    scale_products,
    softmax_over,
)

from .record import Routing, in_float
from .summary import Summary

_NUMBERS_AT_ONCE = 2**24


def landmark_windows(routing: Routing):
    """The windows that landmarks are pooled from.

    Args:
        routing: One call of an attention. With ``pooled_tokens='all_but_last'`` the windows are
            those of the map that the landmarks are pooled from, moved by one patch.

    Returns:
        ndarray: int64 [m, 4]: top, left, bottom and right in patches, the last two exclusive.
    """
    height, width = routing.grid
    landmark_height, landmark_width = routing.landmark_grid
    windows = [
        (top, left, bottom, right)
        for top, bottom in adaptive_windows(height, landmark_height)
        for left, right in adaptive_windows(width, landmark_width)
    ]
    return torch.tensor(windows).numpy()


def expert_keys(routing: Routing):
    """The top-k keys of each expert.

    Returns:
        ndarray: int64 [B, H, m, min(k, N)], indices into the N tokens, ascending.
    """
    return routing.experts.cpu().numpy()


def expert_map(routing: Routing):
    """The expert that each patch goes to; of several, the one of the largest score.

    Returns:
        ndarray: int64 [B, H, h, w], indices into the m landmarks.
    """
    first = routing.routes[..., 0]
    patches = first[:, :, routing.start : routing.start + routing.grid[0] * routing.grid[1]]
    return patches.unflatten(2, routing.grid).cpu().numpy()


def token_use(routing: Routing):
    """In how many experts each token is a key.

    Tokens in none are seen by the shared expert, or the remainder, alone.

    Returns:
        ndarray: int64 [B, H, N].
    """
    return expert_counts(routing).cpu().numpy()


def shared_share(routing: Routing):
    """The shared expert's share of each query's softmax, or the remainder's in its place.

    Returns:
        ndarray: float32 [B, H, N], from 0 to 1.
    """
    return shared_masses(routing).cpu().numpy()


def recall(routing: Routing):
    """How much of full attention's mass of each query is on the keys of its experts.

    Full attention is that of the same queries and keys. Shared expert and remainder are left out.

    Returns:
        ndarray: float32 [B, H, N], from 0 to 1.
    """
    parts = []
    query, key, _ = in_float(routing)
    for queries in few_queries(routing, key.shape[2]):
        logits = scale_products(query[:, :, queries], key, routing.options.scale)
        chosen = torch.zeros_like(logits, dtype=torch.bool)
        chosen.scatter_(-1, chosen_keys(routing, queries), True)
        parts.append(logits.softmax(-1).where(chosen, 0).sum(-1))
    return torch.cat(parts, -1).clamp(max=1).cpu().numpy()


def attention_rows(routing: Routing, queries: Sequence[int]):
    """Where queries look: MiTA attention as weights on the tokens' values.

    The weight of a landmark, or of the remainder, is spread over the tokens by the landmark's own
    softmax. A row times the values is what the attention returns for that query.

    Args:
        routing: One call of an attention.
        queries: n indices into the N tokens.

    Returns:
        ndarray: float32 [B, H, n, N], each row adds up to 1.
    """
    places = torch.tensor(list(queries), dtype=torch.int64, device=routing.query.device)
    query, key, _ = in_float(routing)
    query, summary = query[:, :, places], Summary(routing)
    chosen = chosen_keys(routing, places)  # [B, H, n, s k]
    logits = [routed_logits(query, key, chosen, routing.options), *summary.logits(places)]
    routed, *others = softmax_over(logits)
    spread = routed.new_zeros(*query.shape[:3], key.shape[2])
    spread.scatter_add_(-1, chosen, routed)
    for weights in others:
        spread += summary.on_keys(weights, places)
    return spread.cpu().numpy()


def special_token_rows(routing: Routing):
    """Where the tokens that are no patches look: class tokens, registers, class queries.

    Returns:
        ndarray: float32 [B, H, S, N], as :func:`attention_rows`, in the order of the tokens.
    """
    return attention_rows(routing, routing.special_tokens)


def expert_counts(routing: Routing, among: Tensor | None = None) -> Tensor:
    """In how many experts each token is a key, int64 [B, H, N].

    Args:
        routing: One call of an attention.
        among: The experts that count, bool [B, H, m]; all by default.
    """
    experts = routing.experts
    weights = None if among is None else among.unsqueeze(-1).expand_as(experts).flatten(2)
    return count(experts.flatten(2), routing.key.shape[2], weights)


def loads(routing: Routing) -> Tensor:
    """How many queries go to each expert, int64 [B, H, m]."""
    return count(routing.routes.flatten(2), routing.landmarks.shape[2])


def shared_masses(routing: Routing) -> Tensor:
    """What :func:`shared_share` returns, as a tensor."""
    shape = routing.query.shape[:3]
    options = routing.options
    if not (options.shared or options.remainder):
        return torch.zeros(shape)
    if not options.topk:
        return torch.ones(shape)
    query, key, _ = in_float(routing)
    summary, parts = Summary(routing), []
    for queries in few_queries(routing, options.num_routed * options.topk * key.shape[3]):
        few, chosen = query[:, :, queries], chosen_keys(routing, queries)
        logits = [*summary.logits(queries), routed_logits(few, key, chosen, options)]
        shared, _ = softmax_over(logits)
        parts.append(shared.sum(-1))
    return torch.cat(parts, -1)


def count(index: Tensor, size: int, weights: Tensor | None = None) -> Tensor:
    """How often each of 0 .. size - 1 occurs in the last dimension of `index`."""
    weights = torch.ones_like(index) if weights is None else weights.to(index.dtype)
    return index.new_zeros(*index.shape[:-1], size).scatter_add_(-1, index, weights)


def few_queries(routing: Routing, numbers: int) -> Iterator[slice]:
    """All queries, as many at a time as fit in memory with so many `numbers` each."""
    batch, heads, tokens, _ = routing.query.shape
    step = max(1, _NUMBERS_AT_ONCE // (batch * heads * numbers))
    return (slice(first, min(first + step, tokens)) for first in range(0, tokens, step))


def chosen_keys(routing: Routing, queries: slice | Tensor) -> Tensor:
    """Keys of the experts of some queries, [B, H, n, s * k]."""
    return keys_of_queries(routing.experts, routing.routes[:, :, queries])
