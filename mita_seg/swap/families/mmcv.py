"""MMCV's MultiheadAttention, which wraps nn.MultiheadAttention and adds the identity."""

from mmcv.cnn.bricks.transformer import MultiheadAttention
from torch import Tensor, nn

from .adapter import ClassAdapter, refuse
from .pytorch import attend, refuse_masks, why_not_self_attention


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
        **kwargs,
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
    def refusal(self, module: nn.Module, name: str, parent: nn.Module | None) -> str | None:
        return why_not_self_attention(module.attn)

    def heads(self, module: nn.Module) -> tuple[int, int]:
        return module.num_heads, module.embed_dims // module.num_heads


ADAPTER = _MMCVAdapter(MultiheadAttention, SwappedMultiheadAttention)
