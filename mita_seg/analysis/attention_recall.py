"""How much of full attention MiTA attention keeps, by layer and head, and which keys take it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mita_seg.layers.full_attention import full_attention
from mita_seg.ops.reference import routed_logits, scale_products, softmax_over

from .arrays import chosen_keys, expert_counts, few_queries
from .observe import observe
from .record import Routing, in_float, make_routing
from .summary import Summary

COMMON = 0.9  # of the experts; a key in so many is common to all


class AttentionRecall(NamedTuple):
    """Figures of one attention, each float32 [B, H], means over the queries.

    The first four are shares of a query's mass, from 0 to 1, of full attention unless said.

    Attributes:
        routed: On the keys of its experts.
        shared: The shared expert's share of MiTA attention's softmax, or the remainder's.
        overlap: Mass that full attention and MiTA attention put on the same keys, the shared
            expert's or the remainder's spread over them by the landmarks' own softmax; 1 where the
            two are equal.
        common: On keys that nearly all experts hold.
        common_keys: How many these are, of the k keys of an expert, from 0 to 1.
        common_norm: Mean norm of these keys, relative to the median of all; NaN without any. Keys
            of outlier tokens stand out here.
        blind: What `routed` would be of keys chosen blindly, k s / N.
    """

    routed: Tensor
    shared: Tensor
    overlap: Tensor
    common: Tensor
    common_keys: Tensor
    common_norm: Tensor
    blind: Tensor


@torch.no_grad()
def attention_recall(routing: Routing) -> AttentionRecall:
    """Compare the MiTA attention of one call with full attention of the same queries and keys.

    Some queries at a time, so that long maps fit in memory; time grows with N^2.

    Args:
        routing: One call of an attention, from :func:`mita_seg.analysis.record_routing`.
    """
    query, key, landmarks = in_float(routing)
    options = routing.options
    tokens = key.shape[2]
    counts = expert_counts(routing)  # [B, H, N]
    is_common = counts >= COMMON * landmarks.shape[2]
    numbers = 3 * tokens + options.num_routed * options.topk * key.shape[3]  # of a query
    summary = Summary(routing)
    sums = [torch.zeros(query.shape[:2], device=query.device) for _ in range(4)]
    for queries in few_queries(routing, numbers):
        few = query[:, :, queries]
        full = scale_products(few, key, options.scale).softmax(-1)  # [B, H, n, N]
        chosen = chosen_keys(routing, queries)
        held = torch.zeros_like(full, dtype=torch.bool).scatter_(-1, chosen, True)
        logits = [routed_logits(few, key, chosen, options), *summary.logits(queries)]
        routed_weights, *shared_weights = softmax_over(logits)
        mita = torch.zeros_like(full).scatter_add_(-1, chosen, routed_weights)
        shared = full.new_zeros(full.shape[:3])
        for weights in shared_weights:
            mita += summary.on_keys(weights, queries)
            shared = weights.sum(-1)
        figures = (
            full.where(held, 0).sum(-1),
            shared,
            torch.minimum(full, mita).sum(-1),
            full.where(is_common.unsqueeze(2), 0).sum(-1),
        )
        for total, figure in zip(sums, figures, strict=True):
            total += figure.sum(-1)
    routed, shared, overlap, common = (total / query.shape[2] for total in sums)
    norms = key.norm(dim=-1)  # [B, H, N]
    number = is_common.sum(-1)
    common_norm = norms.where(is_common, 0).sum(-1) / number / norms.median(-1).values
    keys = max(1, routing.experts.shape[-1])
    blind = min(1.0, options.topk * options.num_routed / tokens)
    return AttentionRecall(
        routed.clamp(max=1),
        shared,
        overlap.clamp(max=1),
        common.clamp(max=1),
        number / keys if options.topk else torch.zeros_like(routed),
        common_norm,
        torch.full_like(routed, blind),
    )


def observe_attention_recall(model: nn.Module, as_full: bool = False):
    """Collect the :func:`attention_recall` of every layer at every forward pass.

    Args:
        model: Any model with MiTA attentions.
        as_full: Let the layers compute full attention while they are observed: what MiTA attention
            would keep in a model that was trained with full attention. The model's results are
            those of full attention then; else they do not change.

    Returns:
        A context manager; of :func:`observe`, with an AttentionRecall for each pass.

    Raises:
        ValueError: The model has no MiTA attention.
    """
    return observe(model, _observed_as_full if as_full else _observed)


def _observed(layer, attend, passes, q, k, v, grid, start):
    passes.append(_on_cpu(make_routing(layer, q, k, grid, start)))
    return attend(q, k, v, grid, start)


def _observed_as_full(layer, attend: Callable, passes, q, k, v, grid, start):
    passes.append(_on_cpu(make_routing(layer, q, k, grid, start)))
    return full_attention(q, k, v)


def _on_cpu(routing: Routing) -> AttentionRecall:
    return AttentionRecall(*(figure.cpu() for figure in attention_recall(routing)))


def mean_recall(passes: Sequence[AttentionRecall]) -> dict[str, list[float]]:
    """Means over all images of several passes: name of the figure -> a number for each head."""
    return {
        name: torch.cat([getattr(each, name) for each in passes]).nanmean(0).tolist()
        for name in AttentionRecall._fields
    }
