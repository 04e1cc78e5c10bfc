import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config

from mita_seg.datasets.shapes import CLASSES, PALETTE


def test_twins_differ_in_attention_only(shapes_configs):
    full, mita = (Config.fromfile(path) for path in shapes_configs)
    for cfg, kind in ((full, 'FullAttention'), (mita, 'MiTAAttention')):
        for part in (cfg.model.backbone, cfg.model.decode_head):
            assert part.pop('attn_cfg').type == kind
        cfg.pop('attn_cfg', None)
    assert full.to_dict() == mita.to_dict()


def test_classes_are_those_of_the_drawings(shapes_configs):
    metainfo = Config.fromfile(shapes_configs[0]).train_dataloader.dataset.metainfo
    assert tuple(metainfo.classes) == CLASSES
    assert tuple(map(tuple, metainfo.palette)) == PALETTE
