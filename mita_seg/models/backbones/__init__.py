"""Backbones in MMSegmentation's registry."""

from .mita_vit import MiTAVisionTransformer

__all__ = ['MiTAVisionTransformer']
