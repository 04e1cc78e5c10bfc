"""Decode heads in MMSegmentation's registry."""

from .fused_loss_fcn_head import FusedLossFCNHead
from .mita_mask_transformer_head import MiTAMaskTransformerHead
from .pixel_losses import PixelLosses

__all__ = ['FusedLossFCNHead', 'MiTAMaskTransformerHead', 'PixelLosses']
