"""Hundreds of steps in half precision with the large channels of a pretrained ViT: no NaN."""

import os
import runpy
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

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = (
    Path(os.environ.get('MITA_SEG_DATA', '.')) / 'dinov2-vits14/dinov2_vits14_fp16.safetensors'
)
MITA = {'type': 'MiTAAttention', 'landmarks': (4, 4), 'topk': 16, 'backend': 'triton'}
STEPS = 500

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU'),
    pytest.mark.skipif(not WEIGHTS.is_file(), reason='needs dinov2-vits14 in MITA_SEG_DATA'),
]


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """Of ViT-S/14 with MiTA in encoder and decoder, which begins with the pretrained weights."""
    converted = tmp_path_factory.mktemp('weights') / 'converted.safetensors'
    tool = runpy.run_path(str(ROOT / 'tools/convert_checkpoint.py'))
    tool['main']([str(WEIGHTS), str(converted)])
    cfg = Config.fromfile(ROOT / 'experiments/pretrained/camvid.py')
    cfg.crop_size = cfg.model.data_preprocessor.size = cfg.model.backbone.img_size = (224, 224)
    cfg.model.backbone.init_cfg.checkpoint = str(converted)
    cfg.model.backbone.attn_cfg = cfg.model.decode_head.attn_cfg = MITA
    cfg.model.type = 'EncoderDecoder'  # its layers are watched
    return cfg


@pytest.mark.parametrize(
    'wrapper',
    [
        {'type': 'BFloat16OptimWrapper'},
        {'type': 'AmpOptimWrapper', 'dtype': 'float16', 'loss_scale': 'dynamic'},
    ],
    ids=['bfloat16', 'float16'],
)
def test_no_step_gives_nan(wrapper, config):
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    with torch.no_grad():  # channels as large as those of larger pretrained models
        model.backbone.layers[2].ffn.layers[1].bias[[7, 130, 301]] += torch.tensor([60.0, -40, 80])
    model = model.cuda().train()
    largest = _watch_channels(model.backbone)
    optim_wrapper = build_optim_wrapper(model, {**config.optim_wrapper, **wrapper})
    optim_wrapper.initialize_count_status(model, 0, STEPS)
    losses = []
    for step in range(STEPS):
        losses.append(model.train_step(_batch(step), optim_wrapper)['loss'].detach())
    losses = torch.stack(losses)
    assert all(channels.max() > 8 * channels.median() for channels in largest[8:])
    assert max(channels.max() for channels in largest) > 60
    assert losses.isfinite().all()
    assert losses[-50:].mean() < losses[:50].mean()
    assert all(weight.isfinite().all() for weight in model.parameters())
    if wrapper['type'] == 'AmpOptimWrapper':
        # Without NaN the scaling settles: of 500 steps few are left out.
        assert optim_wrapper.loss_scaler.get_scale() >= 256


def _watch_channels(backbone):
    """A list that gets the largest absolute value of each channel after every layer."""
    largest = []

    def look(layer, arguments, output):
        if len(largest) < 12:
            largest.append(output.detach().float().abs().flatten(0, -2).amax(0))

    for layer in backbone.layers:
        layer.register_forward_hook(look)
    return largest


def _batch(step):
    """Four images of coloured stripes, whose colours are their labels."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(0, 11, (4, 1, 8, 1), generator=generator)
    labels = labels.repeat_interleave(28, 2).expand(-1, -1, -1, 224).contiguous()
    noise = torch.randint(0, 40, (4, 3, 224, 224), generator=generator)
    images = (labels * torch.tensor([20, 10, 15]).view(1, 3, 1, 1) + noise).to(torch.uint8)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    return {'inputs': list(images), 'data_samples': samples}
