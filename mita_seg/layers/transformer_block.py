"""A pre-norm transformer block around any attention."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .drop_path import DropPath
from .feed_forward import FeedForward


class TransformerBlock(nn.Module):
    """x + attn(ln1(x)), then, unless left out, x + ffn(ln2(x)); drop path on both branches.

    Submodules are named as in MMSegmentation's TransformerEncoderLayer (ln1, attn, ln2, ffn).

    Args:
        embed_dims: Channels C of the tokens.
        attn: The attention, called ``attn(x, grid, start)``.
        mlp_ratio: Width of the feed-forward network, in multiples of `embed_dims`.
        with_ffn: Have a feed-forward network; the decoder of the paper has none.
        drop: Dropout probability in the feed-forward network.
        drop_path: Probability of dropping a branch for a sample (stochastic depth).
        num_fcs: Linear layers of the feed-forward network.
        act_layer: Makes an activation module.
        norm_layer: Makes a normalisation module for a number of channels.
        with_cp: Recompute the block in the backward pass instead of keeping its activations.

    Raises:
        TypeError: `attn` is not a module.
        ValueError: `drop_path` is not from 0 to 1, or `num_fcs` is below 2.
    """

    def __init__(
        self,
        embed_dims: int,
        attn: nn.Module,
        *,
        mlp_ratio: float = 4,
        with_ffn: bool = True,
        drop: float = 0.0,
        drop_path: float = 0.0,
        num_fcs: int = 2,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(attn, nn.Module):
            raise TypeError(f'attn must be a torch.nn.Module, got {type(attn).__name__}')
        self.with_ffn = with_ffn
        self.with_cp = with_cp
        self.ln1 = norm_layer(embed_dims)
        self.attn = attn
        if with_ffn:
            self.ln2 = norm_layer(embed_dims)
            self.ffn = FeedForward(
                embed_dims,
                int(mlp_ratio * embed_dims),
                num_fcs=num_fcs,
                drop=drop,
                act_layer=act_layer,
            )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: Sequence[int], start: int = 0) -> Tensor:
        """Tokens [B, N, C] to tokens [B, N, C].

        Args:
            x: Tokens [B, N, C].
            grid: Patch grid (h, w).
            start: Index of the first patch token.
        """
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, x, grid, start, use_reentrant=False)
        return self._forward(x, grid, start)

    def _forward(self, x: Tensor, grid: Sequence[int], start: int) -> Tensor:
        x = x + self.drop_path(self.attn(self.ln1(x), grid, start))
        if self.with_ffn:
            x = x + self.drop_path(self.ffn(self.ln2(x)))
        return x
