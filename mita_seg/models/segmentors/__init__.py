"""Segmentors in MMSegmentation's registry."""

from .compiled_encoder_decoder import CompiledEncoderDecoder

__all__ = ['CompiledEncoderDecoder']
