"""Recording what the MiTA attentions of a model choose while it runs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from mita_seg.layers import MiTAAttention
from mita_seg.ops import route_queries, select_experts

from .observe import observe


@dataclass(frozen=True)
class Routing:
    """One call of one MiTA attention: its queries, keys and landmarks, and its settings.

    Attributes:
        query, key: [B, H, N, d], without gradient.
        landmarks: [B, H, m, d].
        topk: Keys an expert, k; 0 for no routed experts.
        num_routed: Experts a query, s.
        landmark_scale: Factor of the shared expert's logits.
        shared: Whether there is a shared expert.
        grid: Patch grid (h, w); (0, 0) where the figures alone are wanted.
        landmark_grid: Landmark grid (mh, mw), m = mh * mw.
        start: Index of the first patch among the N tokens; the others are special tokens.
    """

    query: Tensor
    key: Tensor
    landmarks: Tensor
    topk: int
    num_routed: int = 1
    landmark_scale: float = 1.0
    shared: bool = True
    grid: tuple[int, int] = (0, 0)
    landmark_grid: tuple[int, int] = (0, 0)
    start: int = 0

    @cached_property
    def experts(self) -> Tensor:
        """Keys of each expert, ascending, int64 [B, H, m, min(k, N)]."""
        if not self.topk:
            return self.query.new_empty((*self.landmarks.shape[:3], 0), dtype=torch.int64)
        return select_experts(self.key, self.landmarks, self.topk)

    @cached_property
    def routes(self) -> Tensor:
        """Experts of each query, closest landmark first, int64 [B, H, N, s]."""
        return route_queries(self.query, self.landmarks, self.num_routed)

    @property
    def special_tokens(self) -> list[int]:
        """Indices of the tokens that are no patches."""
        stop = self.start + self.grid[0] * self.grid[1]
        return [*range(self.start), *range(stop, self.query.shape[2])]


def record_routing(model: nn.Module, layers: Collection[str] | None = None):
    """Record every call of the MiTA attentions of a model.

    The model computes what it computes otherwise, and outside of the ``with`` block its layers are
    as they were: nothing is left in them. Images need no labels.

    Args:
        model: Any model with MiTA attentions.
        layers: Names of the attentions to record; all by default.

    Returns:
        A context manager, which yields a list of :class:`Routing` for each layer by name, one for
        each call. Queries and keys stay on their device.

    Raises:
        ValueError: The model has no MiTA attention, or none of such a name.
    """
    return observe(model, _recorded, layers)


def make_routing(
    layer: MiTAAttention, q: Tensor, k: Tensor, grid: Sequence[int], start: int
) -> Routing:
    """The :class:`Routing` of a layer for queries and keys [B, H, N, d]."""
    with torch.no_grad():
        landmarks = layer.pool(q, grid, start)
    return Routing(
        q.detach(),
        k.detach(),
        landmarks,
        topk=layer.topk,
        num_routed=layer.num_routed,
        landmark_scale=layer.landmark_scale,
        shared=layer.shared,
        grid=tuple(map(int, grid)),
        landmark_grid=layer.landmarks,
        start=start,
    )


def _recorded(layer, attend, passes, q, k, v, grid, start):
    passes.append(make_routing(layer, q, k, grid, start))
    return attend(q, k, v, grid, start)
