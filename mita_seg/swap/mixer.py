"""What a swapped module calls instead of its softmax attention."""

from typing import Any

import torch
from torch import Tensor, nn

from mita_seg.layers import Attention, FullAttention, MiTAAttention
from mita_seg.layers.option_names import check_options

_KINDS = {kind.__name__: kind for kind in (FullAttention, MiTAAttention)}
_PROJECTIONS = ('qkv', 'proj', 'proj_drop')
_OWN_OPTIONS = {'embed_dims', 'num_heads', 'qkv_bias', 'proj_drop', 'attn_drop'}


class Mixer(nn.Module):
    """Mixes the values of a swapped module; has no parameters, so state dicts keep their keys.

    Args:
        attention: Attention without projections, see :func:`build_bare_attention`.
        grid: Tells the patch grid of the tokens; None where the caller tells it.
        undo: What the module's family needs to undo the swap.
    """

    def __init__(self, attention: Attention, grid: Any, undo: Any) -> None:
        super().__init__()
        self.attention = attention
        self.grid = grid
        self.undo = undo

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries, keys and values [B, H, N, d] to [B, H, N, d].

        Raises:
            ValueError: The grid is not known, or does not fit N.
        """
        grid, start = self.grid.locate(q.shape[2], q)
        return self.attention.attend(q, k, v, grid, start)


def build_bare_attention(attn_cfg: dict, num_heads: int, head_dim: int) -> Attention:
    """Build the attention that a config names, without its projections: the model has its own.

    Args:
        attn_cfg: As :func:`mita_seg.swap_attention` takes it; not changed.
        num_heads: Heads H.
        head_dim: Channels d of a head.

    Raises:
        TypeError: `attn_cfg` is not a dict, or has an option that the attention lacks.
        ValueError: An unknown type, a value out of range, or an option that would need parameters.
    """
    if not isinstance(attn_cfg, dict):
        raise TypeError(f'attn_cfg must be a dict, got {attn_cfg!r}')
    options = dict(attn_cfg)
    kind = options.pop('type', 'MiTAAttention')
    attention_class = _KINDS.get(kind) if isinstance(kind, str) else kind
    if not (isinstance(attention_class, type) and issubclass(attention_class, Attention)):
        raise ValueError(
            f"attn_cfg's type must be {', '.join(map(repr, _KINDS))} or a subclass of "
            f'mita_seg.layers.Attention, got {kind!r}'
        )
    if settled := sorted(_OWN_OPTIONS & options.keys()):
        raise ValueError(
            f'attn_cfg must leave {", ".join(settled)} to the model, whose projections stay, '
            f'got {attn_cfg!r}'
        )
    check_options(attention_class, options, where='attn_cfg', settled=_OWN_OPTIONS)
    with torch.device('meta'):  # the projections are dropped: no memory, no random numbers
        attention = attention_class(num_heads * head_dim, num_heads, **options)
    for name in _PROJECTIONS:
        delattr(attention, name)
    if added := [name for name, _ in attention.named_parameters()]:
        raise ValueError(
            f'attn_cfg must add no parameters, since the model has no weights for them, '
            f'got {attn_cfg!r}, which adds {", ".join(added)}'
        )
    return attention
