import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config

from mita_seg.datasets.shapes import CLASSES, PALETTE


def test_classes_are_those_of_the_drawings(shapes_configs):
    metainfo = Config.fromfile(shapes_configs[0]).train_dataloader.dataset.metainfo
    assert tuple(metainfo.classes) == CLASSES
    assert tuple(map(tuple, metainfo.palette)) == PALETTE
