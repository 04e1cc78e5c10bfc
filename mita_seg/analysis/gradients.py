"""Where the gradients of MiTA attention go: through landmarks and experts."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mita_seg.ops.options import MiTAOptions
from mita_seg.ops.reference import (
    attend,
    remainder_part,
    route,
    routed_part,
    select_keys,
    shared_part,
)

from .observe import observe


def observe_gradients(model: nn.Module):
    """Collect :func:`gradient_figures` of every layer at every backward pass.

    The model's results do not change.

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
            layer.options(q.shape[2], grid, start),
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
    options: MiTAOptions,
) -> dict[str, Tensor]:
    """Gradients of one attention by the way they take.

    The definition is computed again, with a copy of each input for each way. It needs memory for
    N s k d numbers.

    Args:
        query, key, value: [B, H, N, d].
        output_gradient: Gradient of the output, [B, H, N, d].
        pool: Makes landmarks [B, H, m, d] of the queries.
        options: What the attention computes.

    Returns:
        [B, H, N, d] each; two add up to the gradient of an input. ``query_pooled``, through the
        landmarks, and ``query_direct``; ``key_shared``, through the shared expert's values or the
        remainder, and ``key_routed``; ``value_shared`` and ``value_routed``.
    """
    names = ('query_pooled', 'query_direct')
    names += ('key_shared', 'key_routed', 'value_shared', 'value_routed')
    inputs = (query, query, key, key, value, value)
    with torch.enable_grad(), torch.autocast(query.device.type, enabled=False):
        ways = {n: x.detach().requires_grad_() for n, x in zip(names, inputs, strict=True)}
        out = _attend(ways, pool, options)
        gradients = torch.autograd.grad(
            out, list(ways.values()), output_gradient, allow_unused=True, materialize_grads=True
        )
    return dict(zip(names, gradients, strict=True))


def _attend(
    ways: dict[str, Tensor], pool: Callable[[Tensor], Tensor], options: MiTAOptions
) -> Tensor:
    """MiTA attention by its definition, [B, H, N, d], with an input of its own for each way."""
    query, landmarks = ways['query_direct'], pool(ways['query_pooled'])
    parts = []
    if options.shared:
        key, value = ways['key_shared'], ways['value_shared']
        parts.append(shared_part(query, key, value, landmarks, options))
    if options.topk:
        key, value = ways['key_routed'], ways['value_routed']
        experts = select_keys(key, landmarks, options)
        routes = route(query, landmarks, options)
        parts.append(routed_part(query, key, value, experts, routes, options))
        if options.remainder:
            key, value = ways['key_shared'], ways['value_shared']
            parts.append(remainder_part(query, key, value, landmarks, experts, routes, options))
    return attend(parts)


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
