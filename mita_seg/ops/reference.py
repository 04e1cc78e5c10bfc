"""The definition of MiTA attention, step by step, in plain torch operations.

Slow and memory-hungry on purpose: this is what every other backend is compared with. The steps are
functions, for analyses and tests that need some of them alone.
Source: Wen et al., arXiv 2602.01219, equations 5-12 and Algorithm 1. The remainder has its own, see
:mod:`.remainder`.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from .options import MiTAOptions
from .remainder import Remainder, leave_out, summarize
from .selection import scores_between


@torch.no_grad()
def select_keys(key: Tensor, landmarks: Tensor, options: MiTAOptions) -> Tensor:
    """Top-k keys of each landmark, ascending; ties go to the lowest index. [B, H, m, k]"""
    scores = scores_between(landmarks, key)  # [B, H, m, N]
    ranked = scores.sort(dim=-1, descending=True, stable=True).indices
    return ranked[..., : options.topk].sort(dim=-1).values


@torch.no_grad()
def route(query: Tensor, landmarks: Tensor, options: MiTAOptions) -> Tensor:
    """Experts of each query, by falling score; ties go to the lowest index. [B, H, N, s]"""
    scores = scores_between(query, landmarks)  # [B, H, N, m]
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., : options.num_routed]


class Part(NamedTuple):
    """What queries attend to: the shared expert, their routed experts, or the remainder."""

    logits: Tensor  # [B, H, N, n]
    values: Tensor  # [B, H, N, n, d], or [B, H, n, d] where all queries have the same


def landmark_weights(key: Tensor, landmarks: Tensor, options: MiTAOptions) -> Tensor:
    """softmax(c L K^T), by which the shared values are made of the values. [B, H, m, N]"""
    return scale_products(landmarks, key, options.scale).softmax(-1)


def shared_logits(query: Tensor, landmarks: Tensor, options: MiTAOptions) -> Tensor:
    """Logits with the landmarks, [B, H, N, m]."""
    return scale_products(query, landmarks, options.landmark_scale) + options.shared_offset


def shared_part(
    query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor, options: MiTAOptions
) -> Part:
    """The shared expert."""
    shared_values = landmark_weights(key, landmarks, options) @ value
    return Part(shared_logits(query, landmarks, options), shared_values)


def keys_of_queries(experts: Tensor, routes: Tensor) -> Tensor:
    """experts [B, H, m, k], routes [B, H, N, s] -> keys of each query's experts [B, H, N, s k]"""
    return gather_rows(experts, routes).flatten(-2)


def routed_logits(query: Tensor, key: Tensor, chosen: Tensor, options: MiTAOptions) -> Tensor:
    """Logits with the `chosen` keys of each query [B, H, N, n], of the same shape."""
    keys = gather_rows(key, chosen)  # [B, H, N, n, d]
    return scale_products(query.unsqueeze(-2), keys, options.scale).squeeze(-2)


def routed_part(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    experts: Tensor,
    routes: Tensor,
    options: MiTAOptions,
) -> Part:
    """The routed experts, whose keys are `experts` [B, H, m, k]; those of a query are `routes`."""
    chosen = keys_of_queries(experts, routes)
    return Part(routed_logits(query, key, chosen, options), gather_rows(value, chosen))


def outside_weights(
    key: Tensor, landmarks: Tensor, experts: Tensor, options: MiTAOptions
) -> Tensor:
    """softmax(c L K^T) over the keys outside of each landmark's expert, 0 inside. [B, H, m, N]"""
    return leave_out(scale_products(landmarks, key, options.scale), experts).softmax(-1)


def remainder_of(
    key: Tensor, value: Tensor, landmarks: Tensor, experts: Tensor, options: MiTAOptions
) -> Remainder:
    """What stands for the keys outside of each of the `experts` [B, H, m, k]."""
    logits = scale_products(landmarks, key, options.scale)  # [B, H, m, N]
    return summarize(logits, experts, key, value, landmarks, options.scale)


def remainder_logits(
    query: Tensor, remainder: Remainder, routes: Tensor, options: MiTAOptions
) -> Tensor:
    """Logits with the remainder of each query's expert `routes` [B, H, N, 1], [B, H, N, 1]."""
    bias, mean_key = (gather_rows(each, routes) for each in (remainder.bias, remainder.key))
    products = scale_products(query.unsqueeze(-2), mean_key, options.scale)
    return (products + bias).squeeze(-1)


def remainder_part(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor,
    experts: Tensor,
    routes: Tensor,
    options: MiTAOptions,
) -> Part:
    """The remainder: of each query that of its expert `routes` [B, H, N, 1]."""
    remainder = remainder_of(key, value, landmarks, experts, options)
    logits = remainder_logits(query, remainder, routes, options)
    return Part(logits, gather_rows(remainder.value, routes))


def softmax_over(logits: Sequence[Tensor]) -> Sequence[Tensor]:
    """Weights [..., n] of one softmax over the logits of several parts."""
    weights = torch.cat(list(logits), -1).softmax(-1)
    return weights.split([each.shape[-1] for each in logits], -1)


def attend(parts: Sequence[Part]) -> Tensor:
    """The values of all parts, weighted by one softmax, [B, H, N, d]."""
    weights = softmax_over([part.logits for part in parts])
    outputs = [
        each @ part.values
        if part.values.ndim == each.ndim
        else (each.unsqueeze(-2) @ part.values).squeeze(-2)
        for each, part in zip(weights, parts, strict=True)
    ]
    return reduce(torch.add, outputs)


def attend_to_chosen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor,
    experts: Tensor,
    routes: Tensor,
    options: MiTAOptions,
) -> Tensor:
    """MiTA attention with experts [B, H, m, k] and routes [B, H, N, s] that are chosen already.

    Without routed experts they are not read.
    """
    parts = []
    if options.shared:
        parts.append(shared_part(query, key, value, landmarks, options))
    if options.topk:
        parts.append(routed_part(query, key, value, experts, routes, options))
    if options.remainder:
        parts.append(remainder_part(query, key, value, landmarks, experts, routes, options))
    return attend(parts)


def reference_attention(
    query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor, options: MiTAOptions
) -> Tensor:
    """MiTA attention by its definition; tensors as in :func:`mita_seg.ops.mita_attention`."""
    experts = select_keys(key, landmarks, options)
    routes = route(query, landmarks, options)
    return attend_to_chosen(query, key, value, landmarks, experts, routes, options)


def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """rows [B, H, N, d] at index [B, H, ...] -> [B, H, ..., d]"""
    flat = index.flatten(2).unsqueeze(-1).expand(-1, -1, -1, rows.shape[-1])
    return rows.gather(2, flat).unflatten(2, index.shape[2:])


def scale_products(rows: Tensor, others: Tensor, scale: float) -> Tensor:
    """Logits scale * rows others^T, [..., n, d] with [..., m, d] -> [..., n, m].

    Sums are kept small by a power of two, which is exact: float16 ends at 65504.
    """
    return (16 * scale) * ((rows / 4) @ (others / 4).mT)
