"""torch.nn.MultiheadAttention used as self-attention, also in nn.TransformerEncoderLayer."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mita_seg.swap.mixer import Mixer

from .adapter import ClassAdapter, refuse


class SwappedMultiheadAttention(nn.MultiheadAttention):
    """nn.MultiheadAttention mixing by our attention. Called alike; it returns no weights."""

    mita: Mixer

    # In eval mode without gradients nn.TransformerEncoderLayer computes attention itself instead of
    # calling this module, unless the projections to query, key and value have different widths. A
    # property hides the instance's value, which is there again once the class is restored.
    _qkv_same_embed_dim = property(lambda self: False)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """As nn.MultiheadAttention.forward with ``need_weights=False``.

        Raises:
            ValueError: Cross-attention, a mask, attention dropout in training, or attention weights
                are asked for.
        """
        if need_weights:
            refuse('has no attention weights to return', 'pass need_weights=False')
        refuse_masks(attn_mask, key_padding_mask, is_causal)
        if query.is_nested:
            refuse('takes no nested tensors', 'pass images of one size, unmasked')
        if key is not query or value.shape != query.shape:
            refuse(
                'is no cross-attention',
                'pass the same tensor as query and key (value may be another of its shape)',
            )
        x = self._batch_first(query)
        out = attend(self, self.mita, x, x if value is query else self._batch_first(value))
        return (out.squeeze(0) if query.ndim == 2 else self._batch_first(out)), None

    def _batch_first(self, x: Tensor) -> Tensor:
        """[N, C], [N, B, C] or [B, N, C] to [B, N, C], and the latter two back."""
        if x.ndim == 2:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)


def attend(attention: nn.MultiheadAttention, mixer: Mixer, x: Tensor, value: Tensor) -> Tensor:
    """Self-attention with the weights of an nn.MultiheadAttention.

    Args:
        attention: Holds the projections.
        mixer: Mixes the values.
        x: Tokens [B, N, C] that queries and keys are made of.
        value: Tokens [B, N, C] that values are made of.

    Returns:
        Tokens [B, N, C].
    """
    if attention.training and attention.dropout > 0:
        refuse(
            f'offers no attention dropout, got dropout={attention.dropout}',
            "set the nn.MultiheadAttention's dropout to 0",
        )
    projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)  # [B, N, 3C]
    q, k, v = projected.chunk(3, -1)
    if value is not x:
        last = slice(2 * attention.embed_dim, None)
        bias = attention.in_proj_bias
        v = F.linear(value, attention.in_proj_weight[last], None if bias is None else bias[last])
    q, k, v = (t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    return attention.out_proj(mixer(q, k, v).transpose(1, 2).flatten(2))


def refuse_masks(
    attn_mask: Tensor | None,
    key_padding_mask: Tensor | None = None,
    is_causal: bool | None = False,
) -> None:
    """Refuse masks of any kind.

    Raises:
        ValueError: There is one.
    """
    for name, mask in (('attn_mask', attn_mask), ('key_padding_mask', key_padding_mask)):
        if mask is not None:
            refuse(f'takes no mask, got {name}', f'pass {name}=None')
    if is_causal:
        refuse('is not causal, got is_causal=True', 'pass is_causal=False')


def reason_of_other_queries(name: str, parent: nn.Module | None) -> str | None:
    """Why a module's queries are not the tokens that it attends to, going by names; None if so.

    Args:
        name: Its name in its parent.
        parent: The module that calls it.
    """
    name, kind = name.lower(), type(parent).__name__
    if 'self' in name:
        return None
    where = f' in a {kind}' if parent is not None else ''
    if 'cross' in name or 'crossattention' in kind.lower():
        return f'is cross-attention{where}, going by its name'
    if 'pool' in name or 'pool' in kind.lower():
        return f'pools tokens under a query of its own{where}, going by its name'
    return None


def reason_against_self_attention(attention: nn.MultiheadAttention) -> str | None:
    """Why a module can't be self-attention without a bias; None if it can."""
    if attention.in_proj_weight is None:
        return (
            f'is cross-attention: kdim={attention.kdim} and vdim={attention.vdim} differ from '
            f'embed_dim={attention.embed_dim}'
        )
    if attention.bias_k is not None or attention.add_zero_attn:
        return 'attends to extra keys (add_bias_kv or add_zero_attn)'
    return None


class _MultiheadAdapter(ClassAdapter):
    def refusal(self, module: Any, name: str, ancestors: Sequence[nn.Module]) -> str | None:
        parent = ancestors[-1] if ancestors else None
        if isinstance(parent, nn.TransformerDecoderLayer) and name == 'multihead_attn':
            return 'is the cross-attention of a TransformerDecoderLayer'
        return reason_of_other_queries(name, parent) or reason_against_self_attention(module)


ADAPTER = _MultiheadAdapter(nn.MultiheadAttention, SwappedMultiheadAttention)
