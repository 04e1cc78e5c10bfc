"""Predictions drawn over images as they are stored."""

import mmcv
import numpy as np
from mmseg.registry import VISUALIZERS
from mmseg.visualization import SegLocalVisualizer

from .orientation import exif_orientation


@VISUALIZERS.register_module()
class StoredImageVisualizer(SegLocalVisualizer):
    """``SegLocalVisualizer`` for images that :class:`LoadCheckedImage` has loaded.

    MMSegmentation's hook and its inferencer read an image again to draw on it, and turn it by its
    EXIF orientation then. Predictions are of the pixels as stored; so is the drawing here. Any
    other picture, one of a pipeline for example, is drawn on as it is. Takes the same arguments.
    """

    def add_datasample(self, name, image, data_sample=None, *args, **kwargs):
        """Draw and store; arguments as in the stock method."""
        path = None if data_sample is None else data_sample.get('img_path')
        if path is not None:
            image = as_stored(image, path)
        super().add_datasample(name, image, data_sample, *args, **kwargs)


def as_stored(image, path):
    """Undo the EXIF orientation of an image that was read again.

    Args:
        image (ndarray): `[h, w, 3]`, RGB, uint8.
        path (str): Its file.

    Returns:
        ndarray: The pixels as stored if `image` is what the file shows turned, else `image`.
    """
    try:
        if exif_orientation(path) == 1:
            return image
        turned = mmcv.imread(path, channel_order='rgb')
    except Exception:  # not a local file, or of a kind that Pillow does not know
        return image
    if not np.array_equal(image, turned):
        return image
    # mmcv leaves the order of the channels alone with this flag: blue, green, red.
    return np.ascontiguousarray(mmcv.imread(path, 'color_ignore_orientation')[..., ::-1])
