"""The fast recipe of the ADE20K configs is the stock recipe, computed elsewhere."""

from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import mita_seg.engine
import mita_seg.models  # noqa: F401

BASES = Path(__file__).resolve().parent.parent / 'configs/_base_'
SIZES = ('512x512', '640x640')


def recipe(size, kind):
    return Config.fromfile(BASES / f'ade20k_{size}_{kind}.py')


def shrink(cfg):
    cfg.model.backbone.update(img_size=(32, 32), embed_dims=32, num_layers=1, num_heads=2)
    cfg.model.decode_head.update(in_channels=32, channels=32, embed_dims=32, num_layers=1)
    for part in ('backbone', 'decode_head'):
        cfg.model[part].drop_path_rate = 0.0
    cfg.model.data_preprocessor.size = (32, 32)
    return cfg


@pytest.mark.parametrize('size', SIZES)
def test_augmentation_is_that_of_the_stock_pipeline(size):
    stock, fast = recipe(size, 'stock'), recipe(size, 'fast')
    transforms = {transform.type: transform for transform in stock.train_pipeline}
    ours = fast.model.data_preprocessor
    assert ours.scale == transforms['RandomResize'].scale
    assert ours.ratio_range == transforms['RandomResize'].ratio_range
    assert ours.cat_max_ratio == transforms['RandomCrop'].cat_max_ratio
    assert transforms['RandomFlip'].prob == 0.5 and 'PhotoMetricDistortion' in transforms
    init_default_scope('mmseg')
    built = MODELS.build(ours)
    assert (built.flip_prob, built.colour_prob) == (0.5, 0.5)


@pytest.mark.parametrize('size', SIZES)
def test_schedule_evaluation_and_model_are_those_of_the_stock_recipe(size):
    stock, fast = recipe(size, 'stock'), recipe(size, 'fast')
    for name in (
        'param_scheduler',
        'train_cfg',
        'val_dataloader',
        'test_evaluator',
        'tta_pipeline',
    ):
        assert fast[name] == stock[name]
    optimizer = {**fast.optim_wrapper.optimizer, 'fused': None}
    assert optimizer == {**stock.optim_wrapper.optimizer, 'fused': None}
    for name in ('backbone', 'decode_head', 'test_cfg'):
        assert fast.model[name] == stock.model[name]


def test_losses_and_gradients_of_a_batch_equal_the_stock_ones_without_augmentation():
    init_default_scope('mmseg')
    images = [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8) for _ in range(2)]
    labels = torch.randint(0, 150, (2, 1, 32, 32))
    labels[0, 0, :5] = 255
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    results = []
    for kind in ('stock', 'fast'):
        cfg = shrink(recipe('512x512', kind))
        if kind == 'fast':
            still = {'ratio_range': (1, 1), 'scale': None, 'cat_max_ratio': 1.0}
            cfg.model.data_preprocessor.update(**still, flip_prob=0, colour_prob=0)
            cfg.model.compile_cfg = {'backend': 'eager'}
        torch.manual_seed(0)
        model = MODELS.build(cfg.model).train()
        data = model.data_preprocessor({'inputs': images, 'data_samples': samples}, True)
        losses = model(**data, mode='loss')
        losses['decode.loss_ce'].backward()
        results.append([*losses.values(), *(p.grad for p in model.parameters())])
    for stock, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, stock, atol=1e-6, rtol=1e-4)


@pytest.mark.long
@pytest.mark.slow
def test_trains_on_real_images_of_several_sizes_and_resumes(ade20k_samples, tmp_path):
    def run(iterations, resume=False):
        cfg = shrink(recipe('512x512', 'fast'))
        cfg.model.decode_head.attn_cfg = {'type': 'MiTAAttention', 'landmarks': (2, 2), 'topk': 2}
        cfg.work_dir, cfg.experiment_name = str(tmp_path), f'fast_{iterations}'
        cfg.visualizer.name, cfg.resume = cfg.experiment_name, resume
        cfg.train_dataloader.update(batch_size=3, num_workers=1)
        cfg.train_dataloader.dataset.data_root = str(ade20k_samples)
        cfg.optim_wrapper.update(accumulative_counts=2, clip_grad={'max_norm': 1.0})
        cfg.custom_hooks = [{'type': 'EMAHook'}]
        cfg.train_cfg.update(max_iters=iterations, val_interval=100)
        cfg.default_hooks.checkpoint.interval = 2
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
        runner = Runner.from_cfg(cfg)
        runner.train()
        return runner

    run(2)
    runner = run(4, resume=True)
    assert runner.iter == 4
    values, _ = runner.message_hub.get_scalar('train/loss').data
    assert len(values) == 4 and all(value == value for value in values.tolist())


@pytest.mark.long
@pytest.mark.slow
def test_trains_by_mmsegmentations_own_tool(repository, ade20k_samples, programs, tmp_path):
    tool = Path(mmseg.__file__).parent / '.mim/tools/train.py'
    (config,) = (repository / 'configs/mita_segmenter').glob('*_vit-t_mita-dec_*.py')
    small = tmp_path / 'small.py'
    small.write_text(
        f"""
_base_ = {str(config)!r}
crop_size = (32, 32)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size, num_layers=1, init_cfg=None))
train_dataloader = dict(num_workers=0, persistent_workers=False,
    dataset=dict(data_root={str(ade20k_samples)!r}))
val_cfg = val_dataloader = val_evaluator = test_cfg = test_dataloader = test_evaluator = None
train_cfg = dict(max_iters=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
"""
    )
    status, printed = programs.run(tool, small, '--work-dir', tmp_path / 'run')
    assert status == 0, printed
    assert printed.count('loss_ce: ') == 2
    assert (tmp_path / 'run/iter_2.pth').is_file()
