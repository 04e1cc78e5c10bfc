"""Our own layers, in MiTAVisionTransformer, MiTAMaskTransformerHead or anybody's model."""

from collections.abc import Sequence

from torch import Tensor, nn

from mita_seg.layers import Attention
from mita_seg.swap.mixer import Mixer

from .adapter import ClassAdapter


class SwappedAttention(Attention):
    """A layer of ours, mixing by another of our attentions; its caller tells it the grid."""

    mita: Mixer

    def attend(self, q: Tensor, k: Tensor, v: Tensor, grid: Sequence[int], start: int) -> Tensor:
        """Everything is [B, H, N, d]."""
        return self.mita.attention.attend(q, k, v, grid, start)


class _LayersAdapter(ClassAdapter):
    told_grid = True

    def owns(self, module: nn.Module) -> bool:
        return isinstance(module, Attention) and type(module).forward is Attention.forward


ADAPTER = _LayersAdapter(Attention, SwappedAttention)
