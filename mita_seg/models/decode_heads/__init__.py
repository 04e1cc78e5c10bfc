"""Decode heads in MMSegmentation's registry."""

from .mita_mask_transformer_head import MiTAMaskTransformerHead

__all__ = ['MiTAMaskTransformerHead']
