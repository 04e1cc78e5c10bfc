"""MMSegmentation's FCNHead without logits of the size of the labels."""

from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS

from mita_seg.models.decode_heads.pixel_losses import PixelLosses


@MODELS.register_module()
class FusedLossFCNHead(PixelLosses, FCNHead):
    """FCNHead, the usual auxiliary head, whose cross entropy takes less time and memory.

    Weights, predictions and figures are those of FCNHead, whose arguments it takes.

    Args:
        fused_loss: As in :class:`~mita_seg.models.decode_heads.pixel_losses.PixelLosses`.
    """
