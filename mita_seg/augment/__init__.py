"""Random changes of whole batches, on the device of the model. Needs torch alone."""

from .colour import jitter_colours
from .joined import JoinedImages, join_images
from .resample import scale_crop_flip
from .windows import Windows, draw_windows

__all__ = [
    'JoinedImages',
    'Windows',
    'draw_windows',
    'jitter_colours',
    'join_images',
    'scale_crop_flip',
]
