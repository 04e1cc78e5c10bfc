"""The drawn data set of tools/make_shapes_dataset.py."""

from typing import ClassVar

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from .shapes import CLASSES, PALETTE


@DATASETS.register_module()
class ShapesDataset(BaseSegDataset):
    """Drawn scenes, whose label 0 is not a class.

    MMSegmentation's tools read the classes from the type of a data set, so that this is one.

    Args:
        reduce_zero_label (bool): Whether 0 is ignored and class i is i + 1 in the files.
        **kwargs: As in ``BaseSegDataset``.
    """

    METAINFO: ClassVar = {'classes': CLASSES, 'palette': [list(colour) for colour in PALETTE]}
    # Shown by the checks that run before training.
    hint = 'tools/make_shapes_dataset.py draws this data set'

    def __init__(self, reduce_zero_label=True, **kwargs):
        super().__init__(reduce_zero_label=reduce_zero_label, **kwargs)
