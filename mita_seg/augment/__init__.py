"""Random changes of whole batches, on the device of the model. Needs torch alone."""

from .colour import change_colours, draw_colours
from .joined import JoinedImages, join_images
from .resample import scale_crop_flip
from .windows import Windows, draw_windows

__all__ = [
    'JoinedImages',
    'Windows',
    'change_colours',
    'draw_colours',
    'draw_windows',
    'join_images',
    'scale_crop_flip',
]
