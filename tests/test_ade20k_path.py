"""The ADE20K configs can learn: real images by heart, and evaluation repeats to the bit."""

from pathlib import Path

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.apis import inference_model, init_model
from mmseg.datasets import ADE20KDataset

import mita_seg.engine  # noqa: F401

CONFIGS = Path(__file__).resolve().parent.parent / 'configs/mita_segmenter'
KINDS = ['full', 'mita-dec', 'mita-encdec', 'mita-attnonly']
LOAD = [
    {'type': 'LoadCheckedImage'},
    {'type': 'LoadCheckedLabels', 'num_classes': 150},
]


def config(kind):
    (path,) = CONFIGS.glob(f'*_vit-t_{kind}_*.py')
    cfg = Config.fromfile(path)
    cfg.model.backbone.init_cfg = None
    return cfg


def learn_by_heart(kind, root, work_dir, size=512, iterations=1000):
    """Train a ViT-T from scratch on the six training images, never changed; the last losses."""
    cfg = config(kind)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = cfg.visualizer.name = f'by_heart_{kind}'
    cfg.randomness = {'seed': 0}
    cfg.model.data_preprocessor.size = cfg.model.backbone.img_size = (size, size)
    for part in ('backbone', 'decode_head'):
        cfg.model[part].drop_path_rate = 0.0
    resize = {'type': 'Resize', 'scale': (size, size), 'keep_ratio': False}
    still = [*LOAD, resize, {'type': 'PackSegInputs'}]
    cfg.train_dataloader.update(batch_size=6, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.update(
        data_root=str(root), pipeline=[{'type': 'CacheInMemory', 'transforms': still}]
    )
    cfg.optim_wrapper = {
        'type': 'BFloat16OptimWrapper',
        'optimizer': {'type': 'AdamW', 'lr': 1e-3, 'weight_decay': 0.0},
        'clip_grad': {'max_norm': 1.0},
    }
    warmup = iterations // 20
    cfg.param_scheduler = [
        {'type': 'LinearLR', 'start_factor': 1e-3, 'end': warmup, 'by_epoch': False},
        {'type': 'CosineAnnealingLR', 'begin': warmup, 'end': iterations, 'by_epoch': False},
    ]
    cfg.train_cfg.update(max_iters=iterations, val_interval=iterations + 1)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.default_hooks.checkpoint.interval = iterations
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner.message_hub.log_scalars['train/loss'].data[0][-10:]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='takes too long without a GPU')
@pytest.mark.parametrize('kind', KINDS)
def test_six_real_images_are_learnt_by_heart(kind, ade20k_samples, tmp_path):
    losses = learn_by_heart(kind, ade20k_samples, tmp_path)
    assert losses.max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_evaluation_repeats_to_the_bit(kind, ade20k_samples, tmp_path):
    cfg = config(kind)
    torch.manual_seed(0)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if device == 'cpu':  # smaller, for the time it takes
        cfg.model.test_cfg.update(crop_size=(192, 192), stride=(144, 144))
        cfg.test_pipeline[1].scale = (768, 192)
    weights = tmp_path / 'weights.pth'
    model = init_model(cfg, device='cpu')
    model.init_weights()
    meta = {'dataset_meta': {'classes': ADE20KDataset.METAINFO['classes'], 'palette': []}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, weights)
    image = ade20k_samples / 'images/validation/ADE_val_00000001.jpg'
    logits = []
    for _ in range(2):
        model = init_model(cfg, str(weights), device=device)
        logits.append(inference_model(model, str(image)).seg_logits.data)
    assert logits[0].std() > 0
    assert torch.equal(*logits)
