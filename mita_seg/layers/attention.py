"""What full and MiTA attention share: projections, normalisation, DWC and gate."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mita_seg.ops.validation import check_grid

from .option_names import describe_unknown


class Attention(nn.Module):
    """Multi-head self-attention whose inner product is left to a subclass.

    A subclass implements :meth:`attend`. Parameters live here only, in a fixed order of
    construction, so that one checkpoint and one seed serve every subclass.

    Source of the two options: published variants of arXiv 2602.01219. DWC adds a 3x3 depthwise
    convolution of the value map to the patch tokens; the gate multiplies the result by SiLU(g).

    Args:
        embed_dims: Channels C of the tokens.
        num_heads: Heads H; must divide `embed_dims`.
        qkv_bias: Give the joint projection to query, key and value a bias.
        qk_norm: Normalise queries and keys over the channels of a head (LayerNorm).
        dwc: Add the depthwise convolution.
        gate: Add the gate.
        proj_drop: Dropout probability after the output projection.
        attn_drop: Must be 0: dropout of attention weights is not offered.
        **unknown: Refused; they are here for the sake of the message.

    Raises:
        TypeError: There is an option of another name.
        ValueError: `num_heads` does not divide `embed_dims`, or `attn_drop` is not 0.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        dwc: bool = False,
        gate: bool = False,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise TypeError(describe_unknown(type(self), unknown))
        if num_heads < 1 or embed_dims < 1 or embed_dims % num_heads:
            raise ValueError(
                f'embed_dims must be a positive multiple of num_heads, '
                f'got embed_dims={embed_dims!r} and num_heads={num_heads!r}'
            )
        if attn_drop:
            raise ValueError(
                f'attn_drop must be 0: attention dropout is not offered, got {attn_drop!r}'
            )
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.head_dim = embed_dims // num_heads

        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop)
        self.q_norm = nn.LayerNorm(self.head_dim) if qk_norm else None
        self.k_norm = nn.LayerNorm(self.head_dim) if qk_norm else None
        self.dwc = (
            nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims) if dwc else None
        )
        self.gate = nn.Linear(embed_dims, embed_dims) if gate else None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, grid: Sequence[int], start: int) -> Tensor:
        """Mix the values; everything is [B, H, N, d]. To be implemented by a subclass."""
        raise NotImplementedError(f'{type(self).__name__} must implement attend()')

    def forward(self, x: Tensor, grid: Sequence[int], start: int = 0) -> Tensor:
        """Attend from every token to the tokens.

        Args:
            x: Tokens [B, N, C]. Those from `start` to `start + h * w` are the patches, row-major;
                any others are special tokens (class token, registers, class queries).
            grid: Patch grid (h, w).
            start: Index of the first patch token.

        Returns:
            Tokens [B, N, C].

        Raises:
            TypeError: `grid` or `start` is not made of ints.
            ValueError: `x` is not [B, N, C], or the patches exceed its tokens.
        """
        if x.ndim != 3 or x.shape[-1] != self.embed_dims:
            raise ValueError(f'x must be [B, N, {self.embed_dims}], got shape {tuple(x.shape)}')
        check_grid(grid, start, x.shape[1])

        qkv = self.qkv(x)  # [B, N, 3C]
        # Taken apart in this order, the gradient is put together in one copy.
        # (An unflatten would keep the batch of the example in ONNX, here and in the models.)
        parts = qkv.view(*x.shape[:2], 3, self.num_heads, self.head_dim).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in parts)  # [B, H, N, d]
        if self.q_norm is not None and self.k_norm is not None:
            # Autocast normalises in float32; the values stay in the lower precision.
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        out = self.attend(q, k, v, grid, start).transpose(1, 2).flatten(2)  # [B, N, C]
        if self.dwc is not None:
            out = out + self._convolve_values(qkv[..., 2 * self.embed_dims :], grid, start)
        if self.gate is not None:
            out = out * F.silu(self.gate(x))
        return self.proj_drop(self.proj(out))

    def _convolve_values(self, values: Tensor, grid: Sequence[int], start: int) -> Tensor:
        """DWC of the patches' values [B, N, C], zero for special tokens. [B, N, C]"""
        height, width = grid
        stop = start + height * width
        value_map = values[:, start:stop].transpose(1, 2)
        value_map = value_map.reshape(*value_map.shape[:2], height, width)
        assert self.dwc is not None
        local = self.dwc(value_map).flatten(2).transpose(-2, -1)  # [B, h * w, C]
        return F.pad(local, (0, 0, start, values.shape[1] - stop))
