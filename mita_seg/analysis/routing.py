"""How the queries, keys and experts of one attention are used."""

import torch
from torch import Tensor

from mita_seg.ops import route_queries, select_experts
from mita_seg.ops.reference import gather_rows


@torch.no_grad()
def routing_figures(
    query: Tensor,
    key: Tensor,
    landmarks: Tensor,
    *,
    topk: int,
    num_routed: int,
    landmark_scale: float,
    shared: bool,
) -> dict[str, float]:
    """Figures of one attention, from 0 to 1, averaged over images and heads.

    Needs memory for all N x N logits.

    Args:
        query, key: [B, H, N, d].
        landmarks: [B, H, m, d].
        topk: Keys an expert, k.
        num_routed: Experts a query, s.
        landmark_scale: Factor of the shared expert's logits.
        shared: Whether there is a shared expert.

    Returns:
        ``empty_experts``: experts that no query goes to. ``busiest_expert``: choices of the queries
        that fall on the most popular expert (1 / m is the least). ``unchosen_keys``: keys in no
        expert. ``unreached_keys``: keys in no expert that a query goes to. ``shared_mass``: softmax
        mass of the landmarks, mean over queries. The first four are NaN without routed experts.
    """
    if not topk:
        names = ('empty_experts', 'busiest_expert', 'unchosen_keys', 'unreached_keys')
        return {**dict.fromkeys(names, float('nan')), 'shared_mass': 1.0}
    topk = min(topk, key.shape[2])
    experts = select_experts(key, landmarks, topk)  # [B, H, m, k]
    routes = route_queries(query, landmarks, num_routed)  # [B, H, N, s]
    query, key, landmarks = query.float(), key.float(), landmarks.float()
    num_tokens, num_experts = key.shape[2], landmarks.shape[2]

    load = _counts(routes.flatten(2), num_experts)  # queries an expert, [B, H, m]
    holders = _counts(experts.flatten(2), num_tokens)  # experts a key, [B, H, N]
    used = (load > 0).unsqueeze(-1).expand_as(experts)
    reached = _counts(experts.flatten(2), num_tokens, weights=used.flatten(2))

    mass = torch.zeros(())
    if shared:
        picked = gather_rows(experts, routes).flatten(3)  # [B, H, N, s * k]
        routed_logits = (query.shape[-1] ** -0.5 * (query @ key.mT)).gather(-1, picked)
        shared_logits = landmark_scale * (query @ landmarks.mT)
        mass = (shared_logits.logsumexp(-1) - routed_logits.logsumexp(-1)).sigmoid()
    figures = {
        'empty_experts': (load == 0).float().mean(),
        'busiest_expert': (load.amax(-1) / routes[0, 0].numel()).mean(),
        'unchosen_keys': (holders == 0).float().mean(),
        'unreached_keys': (reached == 0).float().mean(),
        'shared_mass': mass.mean(),
    }
    return {name: figure.item() for name, figure in figures.items()}


def _counts(index: Tensor, size: int, weights: Tensor | None = None) -> Tensor:
    """How often each of 0 .. size - 1 occurs in the last dimension of `index`."""
    weights = torch.ones_like(index) if weights is None else weights.to(index.dtype)
    return index.new_zeros(*index.shape[:-1], size).scatter_add_(-1, index, weights)
