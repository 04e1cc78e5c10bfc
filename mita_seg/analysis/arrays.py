"""What a recorded attention did, as NumPy arrays to look at.

B images, H heads, N tokens, m landmarks, k keys an expert, s experts a query, patch grid (h, w).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mita_seg.ops.reference import gather_rows

from .record import Routing

_LOGITS_AT_ONCE = 2**24


def landmark_windows(routing: Routing):
    """The windows that landmarks are pooled from.

    Args:
        routing: One call of an attention. With ``pooled_tokens='all_but_last'`` the windows are
            those of the map that the landmarks are pooled from, moved by one patch.

    Returns:
        ndarray: int64 [m, 4]: top, left, bottom and right in patches, the last two exclusive.
    """
    (height, width), (rows, columns) = routing.grid, routing.landmark_grid
    windows = [
        (top, left, bottom, right)
        for top, bottom in _windows(height, rows)
        for left, right in _windows(width, columns)
    ]
    return torch.tensor(windows).numpy()


def _windows(size: int, count: int) -> list[tuple[int, int]]:
    """Begin and end of each window of adaptive pooling along one side."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def expert_keys(routing: Routing):
    """The top-k keys of each expert.

    Returns:
        ndarray: int64 [B, H, m, min(k, N)], indices into the N tokens, ascending.
    """
    return routing.experts.cpu().numpy()


def expert_map(routing: Routing):
    """The expert that each patch goes to, of several the one of its closest landmark.

    Returns:
        ndarray: int64 [B, H, h, w], indices into the m landmarks.
    """
    first = routing.routes[..., 0]
    patches = first[:, :, routing.start : routing.start + routing.grid[0] * routing.grid[1]]
    return patches.unflatten(2, routing.grid).cpu().numpy()


def token_use(routing: Routing):
    """In how many experts each token is a key. Those in none are pruned, but for the shared expert.

    Returns:
        ndarray: int64 [B, H, N].
    """
    return holders(routing).cpu().numpy()


def shared_share(routing: Routing):
    """The shared expert's share of each query's softmax.

    Returns:
        ndarray: float32 [B, H, N], from 0 to 1.
    """
    return shared_masses(routing).cpu().numpy()


def recall(routing: Routing):
    """How much of full attention's mass of each query lies on the keys of its experts.

    Full attention is that of the same queries and keys. The shared expert is left out.

    Returns:
        ndarray: float32 [B, H, N], from 0 to 1.
    """
    parts = []
    for rows, logits in key_logits(routing):
        held = torch.zeros_like(logits, dtype=torch.bool)
        held.scatter_(-1, _picked(routing, rows), True)
        parts.append(logits.softmax(-1).where(held, 0).sum(-1))
    return torch.cat(parts, -1).clamp(max=1).cpu().numpy()


def attention_rows(routing: Routing, queries: Sequence[int]):
    """Where queries look: MiTA attention as weights on the tokens' values.

    The weight of a landmark is spread over the tokens as its own softmax is. A row times the values
    is what the attention returns for that query.

    Args:
        routing: One call of an attention.
        queries: n indices into the N tokens.

    Returns:
        ndarray: float32 [B, H, n, N], each row adds up to 1.
    """
    rows = torch.tensor(list(queries), dtype=torch.int64, device=routing.query.device)
    query, key, landmarks = _in_float(routing)
    query, scale = query[:, :, rows], query.shape[-1] ** -0.5
    picked = gather_rows(routing.experts, routing.routes[:, :, rows]).flatten(3)  # [B, H, n, s k]
    logits = [(scale * (query @ key.mT)).gather(-1, picked)]
    if routing.shared:
        logits.append(routing.landmark_scale * (query @ landmarks.mT))
    weights = torch.cat(logits, -1).softmax(-1)
    spread = weights.new_zeros(*query.shape[:3], key.shape[2])
    spread.scatter_add_(-1, picked, weights[..., : picked.shape[-1]])
    if routing.shared:
        landmark_rows = (scale * (landmarks @ key.mT)).softmax(-1)  # [B, H, m, N]
        spread += weights[..., picked.shape[-1] :] @ landmark_rows
    return spread.cpu().numpy()


def special_token_rows(routing: Routing):
    """Where the tokens that are no patches look: class tokens, registers, class queries.

    Returns:
        ndarray: float32 [B, H, S, N], as :func:`attention_rows`, in the order of the tokens.
    """
    return attention_rows(routing, routing.special_tokens)


def holders(routing: Routing, of: Tensor | None = None) -> Tensor:
    """In how many experts each token is a key, int64 [B, H, N].

    Args:
        routing: One call of an attention.
        of: The experts that count, bool [B, H, m]; all by default.
    """
    experts = routing.experts
    weights = None if of is None else of.unsqueeze(-1).expand_as(experts).flatten(2)
    return count(experts.flatten(2), routing.key.shape[2], weights)


def loads(routing: Routing) -> Tensor:
    """How many queries go to each expert, int64 [B, H, m]."""
    return count(routing.routes.flatten(2), routing.landmarks.shape[2])


def shared_masses(routing: Routing) -> Tensor:
    """What :func:`shared_share` returns, as a tensor."""
    shape = routing.query.shape[:3]
    if not routing.shared:
        return torch.zeros(shape)
    if not routing.topk:
        return torch.ones(shape)
    query, _, landmarks = _in_float(routing)
    parts = []
    for rows, logits in key_logits(routing):
        routed = logits.gather(-1, _picked(routing, rows)).logsumexp(-1)
        shared = (routing.landmark_scale * (query[:, :, rows] @ landmarks.mT)).logsumexp(-1)
        parts.append((shared - routed).sigmoid())
    return torch.cat(parts, -1)


def key_logits(routing: Routing) -> Iterator[tuple[slice, Tensor]]:
    """Full attention's logits a few queries at a time: their slice and float32 [B, H, n, N]."""
    query, key, _ = _in_float(routing)
    batch, heads, tokens, dim = query.shape
    step = max(1, _LOGITS_AT_ONCE // (batch * heads * tokens))
    for first in range(0, tokens, step):
        rows = slice(first, min(first + step, tokens))
        yield rows, dim**-0.5 * (query[:, :, rows] @ key.mT)


def count(index: Tensor, size: int, weights: Tensor | None = None) -> Tensor:
    """How often each of 0 .. size - 1 occurs in the last dimension of `index`."""
    weights = torch.ones_like(index) if weights is None else weights.to(index.dtype)
    return index.new_zeros(*index.shape[:-1], size).scatter_add_(-1, index, weights)


def _picked(routing: Routing, rows: slice) -> Tensor:
    """Keys of the experts of some queries, [B, H, n, s * k]."""
    return gather_rows(routing.experts, routing.routes[:, :, rows]).flatten(3)


def _in_float(routing: Routing) -> tuple[Tensor, Tensor, Tensor]:
    return routing.query.float(), routing.key.float(), routing.landmarks.float()
