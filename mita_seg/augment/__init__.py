"""Random changes of whole batches, on the device they are on. Needs torch alone."""

from .colour import jitter_colours
from .resample import scale_crop_flip

__all__ = ['jitter_colours', 'scale_crop_flip']
