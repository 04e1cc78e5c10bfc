"""A training step with the CamVid recipe never waits for the GPU."""

from pathlib import Path

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

FOLDER = Path(__file__).resolve().parents[2] / 'configs/mita_segmenter_camvid'


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('kind', ['full', 'mita-encdec'])
def test_step_never_waits(kind):
    cfg = Config.fromfile(FOLDER / f'mita-segmenter_vit-t-p16_{kind}_1xb16-4k_camvid-352x480.py')
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model).cuda().train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    label = torch.randint(0, 11, (1, 360, 480))
    image = torch.randint(0, 256, (3, 360, 480), dtype=torch.uint8)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for _ in range(2)]
    data = {'inputs': [image, image], 'data_samples': samples}
    for _ in range(3):
        model.train_step(data, optim_wrapper)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        losses = model.train_step(data, optim_wrapper)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert losses['loss'].isfinite()
