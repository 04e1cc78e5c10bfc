"""MMCV's MultiheadAttention, which wraps nn.MultiheadAttention and adds the identity."""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn.bricks.transformer import BaseTransformerLayer, MultiheadAttention
from torch import Tensor, nn

from .adapter import ClassAdapter, refuse
from .pytorch import attend, reason_against_self_attention, reason_of_other_queries, refuse_masks


class SwappedMultiheadAttention(MultiheadAttention):
    """MMCV's MultiheadAttention mixing by our attention; called alike."""

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """As MMCV's, for self-attention without masks or position encodings of its own.

        Raises:
            ValueError: Any of these, or attention dropout in training.
        """
        refuse_masks(attn_mask, key_padding_mask)
        if any(other is not None and other is not query for other in (key, value)):
            refuse('is no cross-attention', 'pass the query alone')
        if query_pos is not None or key_pos is not None:
            refuse('takes no position encodings, got query_pos or key_pos', 'add them to the query')
        tokens = query if self.batch_first else query.transpose(0, 1)
        out = attend(self.attn, self.mita, tokens, tokens)
        out = out if self.batch_first else out.transpose(0, 1)
        return (query if identity is None else identity) + self.dropout_layer(self.proj_drop(out))


class _MMCVAdapter(ClassAdapter):
    def owns(self, module: nn.Module) -> bool:
        # Subclasses too, to be refused: the nn.MultiheadAttention in them is theirs to call.
        return isinstance(module, MultiheadAttention)

    def refusal(self, module: Any, name: str, ancestors: Sequence[nn.Module]) -> str | None:
        kind = type(module)
        if getattr(module, 'sr_ratio', 1) > 1:
            return (
                f'is cross-attention: {kind.__name__} reduces keys and values, '
                f'got sr_ratio={module.sr_ratio}'
            )
        if kind not in (self.original, self.swapped):
            return f'is of a kind that is not known here, {kind.__name__}'
        if _is_cross_attention(name, ancestors):
            return f'is the cross-attention of a {type(ancestors[-2]).__name__}'
        parent = ancestors[-1] if ancestors else None
        return reason_of_other_queries(name, parent) or reason_against_self_attention(module.attn)

    def heads(self, module: Any) -> tuple[int, int]:
        return module.num_heads, module.embed_dims // module.num_heads


def _is_cross_attention(name: str, ancestors: Sequence[nn.Module]) -> bool:
    """Whether a module is listed as such in one of MMCV's transformer layers."""
    layer = ancestors[-2] if len(ancestors) > 1 else None
    if not isinstance(layer, BaseTransformerLayer) or ancestors[-1] is not layer.attentions:
        return False
    kinds = [step for step in layer.operation_order if step.endswith('_attn')]
    return kinds[int(name)] == 'cross_attn'


ADAPTER = _MMCVAdapter(MultiheadAttention, SwappedMultiheadAttention)
