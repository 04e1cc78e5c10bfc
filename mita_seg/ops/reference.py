"""The definition of MiTA attention, step by step, in plain torch operations.

Slow and memory-hungry on purpose: this is what every other backend is compared with.
Source: Wen et al., arXiv 2602.01219, equations 5-12 and Algorithm 1.
"""

import torch
from torch import Tensor

from .options import MiTAOptions
from .selection import scores_between


def rank_keys(key: Tensor, landmarks: Tensor, topk: int) -> Tensor:
    """Top-k keys of each landmark, ascending; ties go to the lowest index. [B, H, m, k]"""
    scores = scores_between(landmarks, key)  # [B, H, m, N]
    ranked = scores.sort(dim=-1, descending=True, stable=True).indices
    return ranked[..., :topk].sort(dim=-1).values


def rank_landmarks(query: Tensor, landmarks: Tensor, num_routed: int) -> Tensor:
    """Closest landmarks of each query, closest first; ties go to the lowest. [B, H, N, s]"""
    scores = scores_between(query, landmarks)  # [B, H, N, m]
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :num_routed]


def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """rows [B, H, N, d] at index [B, H, ...] -> [B, H, ..., d]"""
    flat = index.flatten(2).unsqueeze(-1).expand(-1, -1, -1, rows.shape[-1])
    return rows.gather(2, flat).unflatten(2, index.shape[2:])


def scale_products(rows: Tensor, others: Tensor, scale: float) -> Tensor:
    """Logits scale * rows others^T, [..., n, d] with [..., m, d] -> [..., n, m].

    Sums are kept small by a power of two, which is exact: float16 ends at 65504.
    """
    return (16 * scale) * ((rows / 4) @ (others / 4).mT)


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor,
    options: MiTAOptions,
    *,
    experts: Tensor | None = None,
    routes: Tensor | None = None,
) -> Tensor:
    """MiTA attention by its definition; tensors as in :func:`mita_seg.ops.mita_attention`.

    With `experts` [B, H, m, k] and `routes` [B, H, N, s] as someone else chose them, of nearly
    equal scores say, only the arithmetic is the definition's.
    """
    logits, values = [], []  # per query: [B, H, N, 1, experts' keys], [B, H, N, keys, d]

    if options.shared:
        weights = scale_products(landmarks, key, options.scale).softmax(-1)
        landmark_values = weights @ value  # [B, H, m, d]
        logits.append(scale_products(query, landmarks, options.landmark_scale))
        values.append(landmark_values.unsqueeze(2).expand(-1, -1, query.shape[2], -1, -1))

    if options.topk:
        with torch.no_grad():
            if experts is None:
                experts = rank_keys(key, landmarks, options.topk)  # [B, H, m, k]
            if routes is None:
                routes = rank_landmarks(query, landmarks, options.num_routed)  # [B, H, N, s]
            picked = gather_rows(experts, routes).flatten(-2)  # [B, H, N, s * k]
        routed_keys = gather_rows(key, picked)  # [B, H, N, s * k, d]
        logits.append(scale_products(query.unsqueeze(-2), routed_keys, options.scale).squeeze(-2))
        values.append(gather_rows(value, picked))

    weights = torch.cat(logits, -1).softmax(-1)
    return (weights.unsqueeze(-2) @ torch.cat(values, -2)).squeeze(-2)
