"""Recording what the MiTA attentions of a model choose while it runs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from mita_seg.layers import MiTAAttention
from mita_seg.ops.options import MiTAOptions
from mita_seg.ops.selection import route, scores_between, select

from .observe import observe


@dataclass(frozen=True)
class Routing:
    """One call of one MiTA attention: its queries, keys, landmarks and options.

    Attributes:
        query, key: [B, H, N, d], without gradient.
        landmarks: [B, H, m, d].
        options: What the attention computes. Without its pooling there is no `landmark_grid`.
        grid: Patch grid (h, w); (0, 0) if only the figures are wanted.
        start: Index of the first patch among the N tokens; the others are special tokens.
    """

    query: Tensor
    key: Tensor
    landmarks: Tensor
    options: MiTAOptions
    grid: tuple[int, int] = (0, 0)
    start: int = 0

    @property
    def landmark_grid(self) -> tuple[int, int]:
        """Landmark grid (mh, mw), m = mh * mw."""
        return self.options.pooling.landmark_height, self.options.pooling.landmark_width

    @cached_property
    def experts(self) -> Tensor:
        """Keys of each expert, ascending, int64 [B, H, m, min(k, N)]."""
        if not self.options.topk:
            return self.query.new_empty((*self.landmarks.shape[:3], 0), dtype=torch.int64)
        return select(scores_between(self.landmarks, self.key), self.options)

    @cached_property
    def routes(self) -> Tensor:
        """Experts of each query, by falling score, int64 [B, H, N, s]."""
        return route(scores_between(self.query, self.landmarks), self.options)

    @property
    def special_tokens(self) -> list[int]:
        """Indices of the tokens that are no patches."""
        stop = self.start + self.grid[0] * self.grid[1]
        return [*range(self.start), *range(stop, self.query.shape[2])]


def in_float(routing: Routing) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and landmarks in float32."""
    return routing.query.float(), routing.key.float(), routing.landmarks.float()


def record_routing(model: nn.Module, layers: Collection[str] | None = None):
    """Record every call of the MiTA attentions of a model.

    The model's results do not change. After the ``with`` block nothing is left in its layers.
    Images need no labels.

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
        layer.options(q.shape[2], grid, start),
        grid=tuple(map(int, grid)),
        start=start,
    )


def _recorded(layer, attend, passes, q, k, v, grid, start):
    passes.append(make_routing(layer, q, k, grid, start))
    return attend(q, k, v, grid, start)
