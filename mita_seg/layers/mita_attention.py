"""MiTA attention as a layer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from mita_seg.ops import (
    cluster_landmarks,
    mita_attention,
    pool_landmarks,
    pooled_mita_attention,
)
from mita_seg.ops.options import MiTAOptions, make_options, make_pooling
from mita_seg.ops.validation import check_experts, check_int, check_pair, check_scale

from .attention import Attention
from .full_attention import full_attention

_ALL_KEYS = 2**31 - 1  # more than there are tokens


class Stage(NamedTuple):
    """What an attention computes for a while in place of its own settings.

    Attributes:
        topk: Keys per expert; None: full attention, without experts.
        shared_offset: Added to the logits of the shared expert, if the layer has one.
    """

    topk: int | None
    shared_offset: float = 0.0


class MiTAAttention(Attention):
    """Mixture of top-k activations: a shared expert of landmarks plus routed experts of keys.

    Landmarks are pooled from the queries of the patch tokens; special tokens are queries, keys and
    values like all others but are not pooled, unless `pooled_tokens` says so. Compress-only (Agent)
    attention is ``topk=0``, route-only is ``shared=False``; full attention is ``topk >= N`` with
    ``shared=False``.

    Source: arXiv 2602.01219, equations 5-12 and Algorithm 1; of the remainder see
    :func:`mita_seg.ops.mita_attention`.

    Args:
        embed_dims: Channels C of the tokens.
        num_heads: Heads H; must divide `embed_dims`.
        landmarks: Landmark grid (mh, mw); there are m = mh * mw experts.
        topk: Keys per routed expert; more than there are tokens means all of them.
        num_routed: Routed experts per query, 1 to m.
        shared: Use the shared expert.
        landmark_scale: Factor of the shared expert's logits: ``'scale'`` for d^-1/2 (the paper),
            ``'inverse_dim'`` for 1/d (the published code), or a number.
        shared_offset: Added to the shared expert's logits; a negative number makes it weaker.
        remainder: Give each expert one more key, which stands for all keys outside of it as its
            landmark sees them. It takes the place of the shared expert: with ``shared=False``,
            ``num_routed=1`` and topk of at least 1.
        kmeans_steps: None: landmarks are the means of windows (the paper). A number: from there
            they are moved by so many steps of k-means of the patches' queries and get equal norms,
            see :func:`mita_seg.ops.cluster_landmarks`; 0: the norms alone. Nearer to full
            attention than windows.
        backend: Backend of :func:`mita_seg.ops.pooled_mita_attention`.
        pooled_tokens: What landmarks are pooled from. ``'patches'`` (the paper), or
            ``'all_but_last'`` to compute what the published code computes, for its weights: there
            the class token, which comes first, is taken for the first patch, every patch moves on
            by one place of the grid, and the last is left out. That needs one class token and no
            other special token.
        **kwargs: `qkv_bias`, `qk_norm`, `dwc`, `gate`, `proj_drop`, `attn_drop` of
            :class:`Attention`.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: A value out of range, ``topk=0`` together with ``shared=False``, or a remainder
            with ``shared=True``, more routed experts than one or ``topk=0``.

    Attributes:
        stage: What :meth:`set_stage` set; None while the layer computes its own settings.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        landmarks: Sequence[int] = (6, 6),
        topk: int = 36,
        num_routed: int = 1,
        shared: bool = True,
        landmark_scale: float | str = 'scale',
        shared_offset: float = 0.0,
        remainder: bool = False,
        kmeans_steps: int | None = None,
        backend: str = 'auto',
        pooled_tokens: str = 'patches',
        **kwargs: Any,
    ) -> None:
        super().__init__(embed_dims, num_heads, **kwargs)
        check_pair('landmarks', landmarks)
        check_experts(topk, num_routed, landmarks[0] * landmarks[1], shared, remainder)
        self.landmarks = tuple(landmarks)
        self.topk = topk
        self.num_routed = num_routed
        self.shared = shared
        self.landmark_scale = _resolve_landmark_scale(landmark_scale, self.head_dim)
        self.shared_offset = check_scale('shared_offset', shared_offset)
        self.remainder = remainder
        if kmeans_steps is not None:
            check_int('kmeans_steps', kmeans_steps, 0)
        self.kmeans_steps = kmeans_steps
        self.stage: Stage | None = None
        if pooled_tokens not in ('patches', 'all_but_last'):
            raise ValueError(
                f"pooled_tokens must be 'patches' or 'all_but_last', got {pooled_tokens!r}"
            )
        self.pooled_tokens = pooled_tokens
        self.backend = backend

    def set_stage(self, stage: Stage | None) -> None:
        """Compute something else for a while, as annealing does; parameters do not change.

        A copy of the layer computes the same; a state dict says nothing about it. Each value is
        compiled anew by ``torch.compile``.

        Args:
            stage: What to compute; None: the layer's own settings.

        Raises:
            TypeError: A number of the wrong type.
            ValueError: A number out of range, or ``topk=0`` for a layer without shared expert.
        """
        if stage is not None:
            if stage.topk is not None:
                num_landmarks = self.landmarks[0] * self.landmarks[1]
                check_experts(
                    stage.topk, self.num_routed, num_landmarks, self.shared, self.remainder
                )
            check_scale('shared_offset', stage.shared_offset)
        self.stage = stage

    def pool(self, q: Tensor, grid: Sequence[int], start: int) -> Tensor:
        """Landmarks [B, H, m, d], pooled from queries [B, H, N, d] or clustered."""
        first = self._first_pooled(q.shape[2], grid, start)
        landmarks = pool_landmarks(q, grid, self.landmarks, start=first)
        if self.kmeans_steps is None:
            return landmarks
        patches = q[:, :, first : first + grid[0] * grid[1]]
        return cluster_landmarks(patches, landmarks, steps=self.kmeans_steps)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, grid: Sequence[int], start: int) -> Tensor:
        """MiTA attention with landmarks that come from the queries; all [B, H, N, d]."""
        if self.stage is not None and self.stage.topk is None:
            return full_attention(q, k, v)
        if self.kmeans_steps is not None:
            landmarks = self.pool(q, grid, start)
            return mita_attention(q, k, v, landmarks, backend=self.backend, **self._settings())
        first = self._first_pooled(q.shape[2], grid, start)
        return pooled_mita_attention(
            q, k, v, grid, self.landmarks, start=first, backend=self.backend, **self._settings()
        )

    def options(self, num_tokens: int, grid: Sequence[int], start: int) -> MiTAOptions:
        """What the layer computes for N tokens and a patch grid (h, w), all defaults filled in.

        Args:
            num_tokens: N.
            grid: Patch grid (h, w).
            start: Index of the first patch token.
        """
        first = self._first_pooled(num_tokens, grid, start)
        pooling = make_pooling((int(grid[0]), int(grid[1])), self.landmarks, first)
        shape = num_tokens, self.head_dim
        options = make_options(shape, pooling.num_landmarks, **self._settings())
        return options._replace(pooling=pooling)

    def _settings(self) -> dict[str, Any]:
        """The layer's options of the operator."""
        settings = {
            'topk': self.topk,
            'num_routed': self.num_routed,
            'landmark_scale': self.landmark_scale,
            'shared': self.shared,
            'shared_offset': self.shared_offset,
            'remainder': self.remainder,
        }
        if self.stage is None:
            return settings
        if self.stage.topk is None:  # what full attention is as MiTA attention
            return {**settings, 'topk': _ALL_KEYS, 'num_routed': 1, 'shared': False}
        return {**settings, **self.stage._asdict()}

    def _first_pooled(self, num_tokens: int, grid: Sequence[int], start: int) -> int:
        """The first of the h * w tokens that landmarks are pooled from."""
        if self.pooled_tokens == 'patches':
            return start
        if start != 1 or num_tokens != 1 + grid[0] * grid[1]:
            raise ValueError(
                "pooled_tokens='all_but_last' needs a class token and then the patches, got "
                f'N={num_tokens} tokens, grid={tuple(grid)}, start={start}'
            )
        return 0

    def extra_repr(self) -> str:
        """The settings, which no submodule shows."""
        return (
            f'landmarks={self.landmarks}, topk={self.topk}, num_routed={self.num_routed}, '
            f'shared={self.shared}, landmark_scale={self.landmark_scale:.4g}, '
            f'shared_offset={self.shared_offset:.4g}, remainder={self.remainder}, '
            f'kmeans_steps={self.kmeans_steps}, '
            f'pooled_tokens={self.pooled_tokens!r}, backend={self.backend!r}'
        )


def _resolve_landmark_scale(landmark_scale: float | str, head_dim: int) -> float:
    if not isinstance(landmark_scale, str):
        return check_scale('landmark_scale', landmark_scale)
    named = {'scale': head_dim**-0.5, 'inverse_dim': 1 / head_dim}
    if landmark_scale not in named:
        raise ValueError(
            f"landmark_scale must be 'scale', 'inverse_dim' or a number, got {landmark_scale!r}"
        )
    return named[landmark_scale]
