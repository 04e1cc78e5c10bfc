"""CamVid's configs and the study's variants of them: one recipe, and what their names say."""

import re
import subprocess
from pathlib import Path

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import FUNCTIONS, DefaultScope, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import HOOKS, MODELS, OPTIM_WRAPPERS, TRANSFORMS
from mmseg.structures import SegDataSample
from torch.nn.functional import interpolate

from mita_seg.comparison.variants import check_keys, parse_variant
from mita_seg.datasets.camvid import CLASSES
from mita_seg.models.config_check import check_attention_configs

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / 'experiments/camvid'
# Name -> variant, as the study says.
RUNS = {
    variant.name: variant
    for variant in map(
        parse_variant,
        subprocess.run(
            ['bash', STUDY / 'study.sh', 'list'], check=True, capture_output=True, text=True
        ).stdout.split(),
    )
}
MITA = [name for name in RUNS if '_mita-' in name and not name.endswith('-stock-recipe')]
STOCK_HEAD = [name for name in RUNS if name.endswith('_stock-head')]
STOCK_RECIPE = [name for name in RUNS if name.endswith('-stock-recipe')]
PATCHES = ('p16', 'p8')


def load(name):
    variant = RUNS[name]
    cfg = Config.fromfile(ROOT / variant.config)
    check_keys(cfg, variant.options)
    cfg.merge_from_dict(variant.options)
    return cfg


def differing_keys(first, second, path=''):
    """Paths whose values differ, but for variables of the files, which are in the model too."""
    if first == second:
        return set()
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return {path}
    found = set()
    for key in {*first, *second} - ({'data_preprocessor', 'stock_recipe'} if not path else set()):
        found |= differing_keys(first.get(key), second.get(key), f'{path}.{key}'.lstrip('.'))
    return found


def differing(first, second):
    return differing_keys(load(first).to_dict(), load(second).to_dict())


def test_the_study_names_every_config_of_the_folder_once():
    plain = [variant.config for variant in RUNS.values() if not variant.options]
    folder = ROOT / 'configs/mita_segmenter_camvid'
    assert sorted(plain) == sorted(str(path.relative_to(ROOT)) for path in folder.glob('*.py'))


def test_the_study_has_every_variant_that_its_report_names():
    table = (STUDY / 'README.md').read_text().partition('## Variants')[2].partition('\n\nLand')[0]
    rows = re.findall(r'^\| (`.*?) \|', table, re.MULTILINE)
    named = set(re.findall(r'`([\w-]+\w)`', '\n'.join(row for row in rows if 'recipe' not in row)))
    assert named == {name.partition('_')[2] for name in {*RUNS} - {*STOCK_RECIPE}}


@pytest.mark.parametrize('name', RUNS)
def test_every_run_of_the_study_builds(name):
    cfg = load(name)
    check_attention_configs(cfg.model)
    init_default_scope('mmseg')
    cfg.model.backbone.num_layers = 1
    model = MODELS.build(cfg.model)
    assert model.decode_head.num_classes == len(CLASSES)


def test_no_two_runs_of_the_study_are_the_same():
    configs = [load(name).to_dict() for name in RUNS]
    for index, cfg in enumerate(configs):
        assert cfg not in configs[index + 1 :]


@pytest.mark.parametrize('name', MITA)
def test_variants_differ_in_the_attention_only(name):
    patch, _, kind = name.partition('_')
    for other in (f'{patch}_full', f'{patch}_mita-encdec'):
        parts = {key.partition('.attn_cfg')[0] for key in differing(other, name)}
        assert parts <= {'model.backbone', 'model.decode_head'}
    model = load(name).model
    assert model.decode_head.attn_cfg.type == 'MiTAAttention'
    if kind != 'mita-dec':
        assert model.backbone.attn_cfg == model.decode_head.attn_cfg


@pytest.mark.parametrize('name', STOCK_HEAD)
def test_stock_head_is_mmsegmentations_with_our_heads_sizes(name):
    full, stock = load(f'{name.partition("_")[0]}_full').to_dict(), load(name).to_dict()
    ours, theirs = full['model'].pop('decode_head'), stock['model'].pop('decode_head')
    assert full == stock
    assert theirs.pop('type') == 'SegmenterMaskTransformerHead'
    assert theirs.pop('num_heads') == full['model']['backbone']['num_heads']
    assert theirs == {key: ours[key] for key in theirs}


def test_patches_differ_in_size_and_experts_only():
    assert differing('p16_full', 'p8_full') == {
        'model.backbone.patch_size',
        'model.data_preprocessor.test_cfg.size_divisor',
    }
    for patch in PATCHES:
        model = load(f'{patch}_full').model
        # Images are padded to whole patches.
        assert model.data_preprocessor.test_cfg.size_divisor == model.backbone.patch_size
        assert f'p{model.backbone.patch_size}' == patch


@pytest.mark.parametrize('patch', PATCHES)
def test_landmarks_pool_squares_and_experts_cover_the_tokens(patch):
    backbone = load(f'{patch}_mita-encdec').model.backbone
    height, width = (size // backbone.patch_size for size in backbone.img_size)
    rows, columns = backbone.attn_cfg.landmarks
    assert height / rows == pytest.approx(width / columns, rel=0.1)
    assert backbone.attn_cfg.topk == rows * columns
    assert backbone.attn_cfg.topk * rows * columns > height * width


def test_recipe_is_the_one_of_the_report():
    cfg = load('p16_full')
    report = (STUDY / 'README.md').read_text().partition('## Recipe\n')[2]
    said = re.match(
        r'\s*(\S+) iterations of batch (\d+), (\w+) \(learning rate (\S+), weight decay (\S+)\).*?'
        r'gradient norm clipped at (\S+), \w+, random scale (\S+) to (\d+)',
        report,
        re.DOTALL,
    ).groups()
    optimizer = cfg.optim_wrapper.optimizer
    iterations, batch, kind, *numbers = (word.replace(',', '') for word in said)
    assert (int(iterations), int(batch)) == (
        cfg.train_cfg.max_iters,
        cfg.train_dataloader.batch_size,
    )
    assert kind == optimizer.type
    assert [float(number) for number in numbers] == [
        optimizer.lr,
        optimizer.weight_decay,
        cfg.optim_wrapper.clip_grad.max_norm,
        *cfg.model.data_preprocessor.ratio_range,
    ]
    assert cfg.model.backbone.drop_path_rate == cfg.model.decode_head.drop_path_rate == 0
    warmup, decay = cfg.param_scheduler
    assert warmup.end == decay.begin == decay.end // 10 == cfg.train_cfg.max_iters // 10
    splits = [cfg[f'{name}_dataloader'].dataset.split for name in ('train', 'val', 'test')]
    assert 'test' not in splits, 'the test split is for final figures only'
    assert splits[0] not in splits[1:]


@pytest.mark.parametrize('name', STOCK_RECIPE)
def test_stock_recipe_replaces_what_waits_and_nothing_else(name):
    ours, stock = load(name.removesuffix('-stock-recipe')), load(name)
    changed = differing_keys(ours.to_dict(), stock.to_dict())
    assert changed <= {
        'model.type',
        'model.data_preprocessor.type',
        'model.data_preprocessor.ratio_range',
        'train_dataloader.num_workers',
        'train_dataloader.persistent_workers',
        'train_dataloader.collate_fn.type',
        'train_dataloader.dataset.pipeline',
        'optim_wrapper.type',
        'optim_wrapper.dtype',
        'optim_wrapper.optimizer.fused',
        'default_hooks.runtime_info.type',
    }
    pipeline = stock.train_dataloader.dataset.pipeline
    with DefaultScope.overwrite_default_scope('mmseg'):
        parts = [
            MODELS.get(stock.model.type),
            MODELS.get(stock.model.data_preprocessor.type),
            OPTIM_WRAPPERS.get(stock.optim_wrapper.type),
            HOOKS.get(stock.default_hooks.runtime_info.type),
            FUNCTIONS.get(stock.train_dataloader.collate_fn.type),
            *(TRANSFORMS.get(transform.type) for transform in pipeline),
        ]
    assert not [part for part in parts if part.__module__.startswith('mita_seg')]
    # The same augmentation, in workers.
    resize, crop = pipeline[2:4]
    assert resize.ratio_range == ours.model.data_preprocessor.ratio_range
    assert crop.crop_size == ours.crop_size


def test_whole_images_are_padded_not_stretched():
    cfg = load('p16_full')
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


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        pytest.param('p16_full', marks=pytest.mark.long),
        pytest.param('p16_stock-head', marks=pytest.mark.long),
        'p16_mita-encdec',
        'p16_full-stock-recipe',
    ],
)
def test_trains_and_tests_on_real_images(name, data_root, tmp_path):
    root = data_root / 'camvid'
    if not root.is_dir():
        pytest.skip(f'{data_root} holds no camvid')
    cfg = load(name)
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = cfg.visualizer.name = f'camvid_{name}'
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
