"""CamVid in the 11 classes of SegNet."""

import os
from typing import ClassVar

from mmengine import fileio
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

SPLITS = {
    'train': ('train',),
    'val': ('val',),
    'test': ('test',),
    'trainval': ('train', 'val'),
}
CLASSES = (
    'Sky',
    'Building',
    'Pole',
    'Road',
    'Pavement',
    'Tree',
    'SignSymbol',
    'Fence',
    'Car',
    'Pedestrian',
    'Bicyclist',
)
PALETTE = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """Street scenes of 480x360 pixels: 367 for training, 101 for validation, 233 for testing.

    The folder holds ``images/{train,val,test}/*.jpg``, ``annotations/{train,val,test}/*.png`` (0 to
    10 in the order of ``CLASSES``, 255 = not labelled) and ``{train,val,test}.txt`` with one name
    (no suffix) a line. ``tools/prepare_camvid.py`` writes it.

    Source: Brostow et al., "Semantic object classes in video", Pattern Recognition Letters 2009;
    classes and splits of Badrinarayanan et al., SegNet, arXiv 1511.00561.

    Args:
        data_root (str): The folder.
        split (str): ``'train'``, ``'val'``, ``'test'`` or ``'trainval'`` (train, then val).
        data_prefix (dict): Where images and label maps are, below `data_root`.
        **kwargs: Other arguments of BaseSegDataset, but `ann_file`.

    Raises:
        ValueError: There is no such split.
        FileNotFoundError: A split file is missing.
    """

    METAINFO: ClassVar = {'classes': CLASSES, 'palette': [list(colour) for colour in PALETTE]}
    # Shown by the checks that run before training.
    hint = 'tools/prepare_camvid.py makes the folder and says where to get the images'

    def __init__(
        self,
        data_root='data/camvid',
        split='train',
        data_prefix=None,
        **kwargs,
    ):
        if split not in SPLITS:
            raise ValueError(f'split must be one of {", ".join(SPLITS)}, got {split!r}')
        self.split = split
        prefix = data_prefix or {'img_path': 'images', 'seg_map_path': 'annotations'}
        super().__init__(data_root=data_root, data_prefix=prefix, **kwargs)

    def load_data_list(self):
        """List the images of the split, in the order of its files.

        Returns:
            list[dict]: The samples, as those of BaseSegDataset.
        """
        return [
            {
                'img_path': self._path('img_path', part, name + self.img_suffix),
                'seg_map_path': self._path('seg_map_path', part, name + self.seg_map_suffix),
                'label_map': self.label_map,
                'reduce_zero_label': self.reduce_zero_label,
                'seg_fields': [],
            }
            for part in SPLITS[self.split]
            for name in self._names(part)
        ]

    def _path(self, key, part, file):
        return os.path.join(self.data_prefix[key], part, file)

    def _names(self, part):
        path = os.path.join(self.data_root, f'{part}.txt')
        try:
            text = fileio.get_text(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'split file {path!r} does not exist; {self.hint}') from error
        return text.split()
