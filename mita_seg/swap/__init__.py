"""MiTA attention put into models that exist already, their weights kept.

Tried on CPUs with torch 2.13.0 and, where a family needs one,

- onedl-mmcv 2.3.6 and onedl-mmsegmentation 1.4.2;
- timm 0.9.16, 1.0.3, 1.0.15 and 1.0.31;
- torchvision 0.28.0 and 0.29.1, the compiled operators left out, for which there was no CPU build;
- transformers 4.57.6 (with torch alone), 5.23.0 and 5.24.0.
"""

from .swapping import restore_attention, swap_attention

__all__ = ['restore_attention', 'swap_attention']
