"""Where the gradients of MiTA attention go: through landmarks and experts."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mita_seg.ops.reference import gather_rows, rank_keys, rank_landmarks

from .observe import observe


def observe_gradients(model: nn.Module):
    """Collect :func:`gradient_figures` of every layer at every backward pass.

    The model computes what it computes otherwise.

    Args:
        model: Any model with MiTA attentions.

    Returns:
        A context manager; of :func:`observe`, with a dict of figures for each backward pass.

    Raises:
        ValueError: The model has no MiTA attention.
    """
    return observe(model, _observed)


def _observed(layer, attend, passes, q, k, v, grid, start):
    out = attend(q, k, v, grid, start)

    def note(output_gradient):
        parts = split_gradient(
            *(tensor.detach().float() for tensor in (q, k, v)),
            output_gradient.float(),
            lambda query: layer.pool(query, grid, start),
            topk=layer.topk,
            num_routed=layer.num_routed,
            landmark_scale=layer.landmark_scale,
            shared=layer.shared,
        )
        passes.append(gradient_figures(parts))

    out.register_hook(note)
    return out


def split_gradient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output_gradient: Tensor,
    pool: Callable[[Tensor], Tensor],
    *,
    topk: int,
    num_routed: int,
    landmark_scale: float,
    shared: bool,
) -> dict[str, Tensor]:
    """Gradients of one attention by the way they take.

    The definition is run again with a copy of each input for each way. Needs memory for N s k rows
    of d numbers.

    Args:
        query, key, value: [B, H, N, d].
        output_gradient: Gradient of the output, [B, H, N, d].
        pool: Makes landmarks [B, H, m, d] of the queries.
        topk: Keys per expert, k; 0 for no routed experts.
        num_routed: Experts per query, s.
        landmark_scale: Factor of the shared expert's logits.
        shared: Whether there is a shared expert.

    Returns:
        [B, H, N, d] each; two add up to the gradient of an input. ``query_pooled``, through the
        landmarks, and ``query_direct``; ``key_shared``, through the shared expert's values, and
        ``key_routed``; ``value_shared`` and ``value_routed``.
    """
    names = ('query_pooled', 'query_direct')
    names += ('key_shared', 'key_routed', 'value_shared', 'value_routed')
    inputs = (query, query, key, key, value, value)
    with torch.enable_grad(), torch.autocast(query.device.type, enabled=False):
        ways = {n: x.detach().requires_grad_() for n, x in zip(names, inputs, strict=True)}
        out = _attend(ways, pool, min(topk, key.shape[2]), num_routed, landmark_scale, shared)
        gradients = torch.autograd.grad(
            out, list(ways.values()), output_gradient, allow_unused=True, materialize_grads=True
        )
    return dict(zip(names, gradients, strict=True))


def _attend(ways, pool, topk, num_routed, landmark_scale, shared) -> Tensor:
    """MiTA attention by its definition, [B, H, N, d], each way with an input of its own."""
    query, scale = ways['query_direct'], ways['query_direct'].shape[-1] ** -0.5
    landmarks = pool(ways['query_pooled'])
    logits, shared_values, routed_values = [], None, None
    if shared:
        weights = (scale * (landmarks @ ways['key_shared'].mT)).softmax(-1)  # [B, H, m, N]
        shared_values = weights @ ways['value_shared']
        logits.append(landmark_scale * (query @ landmarks.mT))
    if topk:
        with torch.no_grad():
            experts = rank_keys(ways['key_routed'], landmarks, topk)
            picked = gather_rows(experts, rank_landmarks(query, landmarks, num_routed)).flatten(3)
        keys = gather_rows(ways['key_routed'], picked)  # [B, H, N, s * k, d]
        routed_values = gather_rows(ways['value_routed'], picked)
        logits.append(scale * (keys @ query.unsqueeze(-1)).squeeze(-1))
    weights = torch.cat(logits, -1).softmax(-1)
    num_shared = landmarks.shape[2] if shared else 0
    out = 0
    if shared:
        out = weights[..., :num_shared] @ shared_values
    if topk:
        out = out + (weights[..., num_shared:].unsqueeze(-2) @ routed_values).squeeze(-2)
    return out


def gradient_figures(parts: dict[str, Tensor]) -> dict[str, float]:
    """Norms of the parts of :func:`split_gradient`, and how much the landmarks carry.

    Args:
        parts: What :func:`split_gradient` returns.

    Returns:
        Euclidean norms under the names of the parts; and ``query_pooled_share``,
        ``key_shared_share`` and ``value_shared_share``, the norm of that part over the sum of both
        norms of its input, from 0 to 1 (0 where the input has no gradient).
    """
    norms = {name: gradient.norm().item() for name, gradient in parts.items()}
    figures = dict(norms)
    for part, rest in (
        ('query_pooled', 'query_direct'),
        ('key_shared', 'key_routed'),
        ('value_shared', 'value_routed'),
    ):
        total = norms[part] + norms[rest]
        figures[f'{part}_share'] = norms[part] / total if total else 0.0
    return figures
