"""Attention layers and the transformer block. Needs torch alone."""

from .attention import Attention
from .drop_path import DropPath
from .feed_forward import FeedForward
from .full_attention import FullAttention
from .mita_attention import MiTAAttention
from .transformer_block import TransformerBlock

__all__ = [
    'Attention',
    'DropPath',
    'FeedForward',
    'FullAttention',
    'MiTAAttention',
    'TransformerBlock',
]
