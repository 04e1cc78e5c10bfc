"""CamVid's configs share one recipe and differ as their names say; they train on the real data."""

from pathlib import Path

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch.nn.functional import interpolate

FOLDER = Path(__file__).resolve().parent.parent / 'configs/mita_segmenter_camvid'
# What differs from mita-encdec, in every attention.
VARIANTS = {
    'mita-compress': {'topk': 0},
    'mita-route': {'shared': False},
    'mita-s2': {'num_routed': 2},
    'mita-invdim': {'landmark_scale': 'inverse_dim'},
    'mita-dwc': {'dwc': True},
    'mita-dwc-gate': {'dwc': True, 'gate': True},
}
KINDS = ['full', 'stock-head', 'mita-dec', 'mita-encdec', *VARIANTS]
# With MMSegmentation's stock recipe, at patch 16.
STOCK_RECIPE = ['full', 'stock-head', 'mita-encdec']
PATCHES = {16: (22, 30), 8: (44, 60)}


def path(kind, patch):
    return FOLDER / f'mita-segmenter_vit-t-p{patch}_{kind}_1xb16-4k_camvid-352x480.py'


def load(kind, patch=16):
    return Config.fromfile(path(kind, patch))


def without_attention(cfg):
    """A config as a dict, less the choice of attention."""
    plain = cfg.to_dict()
    plain.pop('attn_cfg', None)
    for part in ('backbone', 'decode_head'):
        plain['model'][part].pop('attn_cfg')
    return plain


def test_every_variant_exists_for_both_patches_and_nothing_else():
    announced = {path(kind, patch) for kind in KINDS for patch in PATCHES}
    announced |= {path(f'{kind}-stock-recipe', 16) for kind in STOCK_RECIPE}
    assert set(FOLDER.glob('*.py')) == announced


@pytest.mark.parametrize('patch', PATCHES)
def test_variants_differ_in_the_attention_only(patch):
    full, encdec = load('full', patch), load('mita-encdec', patch)
    mita = encdec.model.backbone.attn_cfg
    assert encdec.model.decode_head.attn_cfg == mita
    assert without_attention(full) == without_attention(encdec)
    for kind, change in VARIANTS.items():
        cfg = load(kind, patch)
        assert without_attention(cfg) == without_attention(full), kind
        for part in ('backbone', 'decode_head'):
            assert cfg.model[part].attn_cfg == {**mita, **change}, kind


@pytest.mark.parametrize('patch', PATCHES)
def test_stock_head_is_mmsegmentations_with_our_heads_sizes(patch):
    full, stock = load('full', patch).to_dict(), load('stock-head', patch).to_dict()
    ours, theirs = full['model'].pop('decode_head'), stock['model'].pop('decode_head')
    assert full == stock
    assert (theirs.pop('type'), theirs.pop('num_heads')) == ('SegmenterMaskTransformerHead', 3)
    assert theirs == {key: ours[key] for key in theirs}


def test_patches_differ_in_size_and_experts_only():
    coarse, fine = load('full', 16).to_dict(), load('full', 8).to_dict()
    assert coarse['model']['backbone'].pop('patch_size') == 16
    assert fine['model']['backbone'].pop('patch_size') == 8
    for cfg, divisor in ((coarse, 16), (fine, 8)):
        test_cfg = cfg['model']['data_preprocessor'].pop('test_cfg')
        assert test_cfg == {'size_divisor': divisor}
        cfg.pop('data_preprocessor')  # the model's
    assert coarse == fine


@pytest.mark.parametrize('patch', PATCHES)
def test_landmarks_pool_squares_and_experts_cover_the_tokens(patch):
    cfg = load('mita-encdec', patch)
    attention = cfg.model.backbone.attn_cfg
    height, width = (size // patch for size in cfg.model.backbone.img_size)
    assert (height, width) == PATCHES[patch]
    rows, columns = attention.landmarks
    assert height / rows == pytest.approx(width / columns, rel=0.1)
    assert attention.topk == rows * columns
    assert attention.topk * rows * columns > height * width


def test_recipe_is_the_announced_one():
    cfg = load('full')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 5e-4, 0.05)
    assert cfg.optim_wrapper.clip_grad == {'max_norm': 1.0}
    assert cfg.model.type == 'CompiledEncoderDecoder'
    assert cfg.model.backbone.pos_embed_init == 'sine_cosine'
    assert cfg.model.backbone.drop_path_rate == cfg.model.decode_head.drop_path_rate == 0
    assert cfg.train_dataloader.batch_size == 16
    warmup, decay = cfg.param_scheduler
    assert warmup.end == decay.begin == decay.end // 10 == cfg.train_cfg.max_iters // 10 == 400
    assert cfg.default_hooks.logger.interval % cfg.default_hooks.runtime_info.interval == 0
    splits = [cfg[f'{name}_dataloader'].dataset.split for name in ('train', 'val', 'test')]
    assert splits == ['train', 'val', 'val'], 'the test split is for final figures only'


@pytest.mark.parametrize('kind', STOCK_RECIPE)
def test_stock_recipe_replaces_what_waits_and_nothing_else(kind):
    ours, stock = load(kind).to_dict(), load(f'{kind}-stock-recipe').to_dict()
    stock.pop('stock_recipe')
    types = [('CompiledEncoderDecoder', 'BatchSegDataPreProcessor')]
    types += [('EncoderDecoder', 'SegDataPreProcessor')]
    for cfg, (segmentor, preprocessor) in zip((ours, stock), types, strict=True):
        assert cfg['model'].pop('type') == segmentor
        assert cfg['model']['data_preprocessor'].pop('type') == preprocessor
        cfg.pop('data_preprocessor')  # the model's
    ratio_range = ours['model']['data_preprocessor'].pop('ratio_range')

    loaders = [cfg.pop('train_dataloader') for cfg in (ours, stock)]
    pipeline = loaders[1]['dataset'].pop('pipeline')
    del loaders[0]['dataset']['pipeline']
    assert loaders[1] == {**loaders[0], 'num_workers': 4, 'persistent_workers': True}
    assert [transform['type'] for transform in pipeline] == [
        'LoadImageFromFile',
        'LoadAnnotations',
        'RandomResize',
        'RandomCrop',
        'RandomFlip',
        'PhotoMetricDistortion',
        'PackSegInputs',
    ]
    assert pipeline[2]['ratio_range'] == ratio_range
    assert pipeline[3]['crop_size'] == ours['crop_size']

    optimizers = [cfg.pop('optim_wrapper') for cfg in (ours, stock)]
    changed = {'type': 'AmpOptimWrapper', 'dtype': 'bfloat16'}
    adamw = {**optimizers[0]['optimizer'], 'fused': None}
    assert optimizers[1] == {**optimizers[0], **changed, 'optimizer': adamw}
    ours['default_hooks']['runtime_info'] = {'type': 'RuntimeInfoHook'}
    assert ours == stock


def test_whole_images_are_padded_not_stretched():
    cfg = load('full')
    init_default_scope('mmseg')
    cfg.model.backbone.num_layers = 1
    model = MODELS.build(cfg.model).eval()
    image = torch.randint(0, 256, (3, 360, 480), dtype=torch.uint8)
    sample = SegDataSample(
        metainfo={'ori_shape': (360, 480), 'img_shape': (360, 480)},
        gt_sem_seg=PixelData(data=torch.zeros(1, 360, 480, dtype=torch.int64)),
    )
    data = pseudo_collate([{'inputs': image, 'data_samples': sample}])
    with torch.no_grad():
        (got,) = model.test_step(data)
        padded = torch.nn.functional.pad(image.flip(0) / 127.5 - 1, (0, 0, 0, 8))
        logits = model(padded[None], mode='tensor')
    assert logits.shape[2:] == (23, 30)
    expected = interpolate(logits, (368, 480), mode='bilinear')[0, :, :360]
    torch.testing.assert_close(got.seg_logits.data, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('kind', [*STOCK_RECIPE, 'full-stock-recipe'])
def test_trains_and_tests_on_real_images(kind, data_root, tmp_path):
    root = data_root / 'camvid'
    if not root.is_dir():
        pytest.skip(f'{data_root} holds no camvid')
    cfg = load(kind)
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = cfg.visualizer.name = f'camvid_{kind}'
    cfg.model.backbone.num_layers = cfg.model.decode_head.num_layers = 1
    cfg.train_dataloader.batch_size = 2
    if not torch.cuda.is_available() and cfg.optim_wrapper.type == 'AmpOptimWrapper':
        cfg.optim_wrapper.type = 'OptimWrapper'
        del cfg.optim_wrapper['dtype']
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.interval = 2
    for name in ('train', 'val', 'test'):
        cfg[f'{name}_dataloader'].dataset.data_root = str(root)
    for name in ('val', 'test'):
        cfg[f'{name}_dataloader'].update(num_workers=0, persistent_workers=False)
        cfg[f'{name}_dataloader'].dataset.indices = 2

    runner = Runner.from_cfg(cfg)
    runner.train()
    metrics = runner.test()

    assert 0 <= metrics['mIoU'] <= 100
    losses = runner.message_hub.log_scalars['train/loss'].data[0]
    assert len(losses) == 2 and all(0 < loss < 5 for loss in losses)
    assert (tmp_path / 'iter_2.pth').exists()
