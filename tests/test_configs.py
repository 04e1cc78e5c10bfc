"""Every config builds and trains; twins differ in one key; the recipe is MMSegmentation's."""

import gc
import re
from pathlib import Path
from statistics import fmean

import mmseg
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / 'configs'
FILES = sorted(
    path
    for path in CONFIGS.glob('*/*.py')
    if path.parent.name != '_base_' and not path.stem.endswith('_base')
)
ADE20K = sorted((CONFIGS / 'mita_segmenter').glob('*.py'))
SIZES = sorted({path.stem.split('_')[1] for path in ADE20K})  # such as vit-t
NAME = re.compile(
    r'mita-segmenter_vit-[a-z]+(?:-p\d+)?_(?:full|stock-head|mita-[a-z0-9-]+)(?:-stock-recipe)?_'
    r'\d+xb\d+-\w+_[a-z0-9]+-(\d+)x(\d+)'
)


def ade20k_file(size, variant):
    (path,) = (path for path in ADE20K if f'_{size}_{variant}_' in path.stem)
    return path


def ade20k_config(size, variant):
    return Config.fromfile(ade20k_file(size, variant))


def stock_config(size, folder):
    """The full-attention config with another base in its first line, as the documentation says."""
    path = ade20k_file(size, 'full')
    first, rest = path.read_text().split('\n', 1)
    base = first.split("'")[1].replace('_fast.py', '_stock.py')
    config = folder / path.name
    config.write_text(f'_base_ = {str(path.parent / base)!r}\n{rest}')
    return Config.fromfile(config)


def twins():
    """Pairs (full config, MiTA config) of one folder, size, crop and schedule."""
    for full in FILES:
        if '_full_' in full.stem:
            before, after = full.stem.split('_full_')
            for variant in ('mita-dec', 'mita-encdec'):
                twin = full.with_name(f'{before}_{variant}_{after}.py')
                if twin.exists():
                    yield full, twin


def differing_keys(first, second, path=''):
    """Paths whose values differ; an attn_cfg counts as one value."""
    if first == second:
        return []
    if path.endswith('attn_cfg') or not (isinstance(first, dict) and isinstance(second, dict)):
        return [path]
    keys = sorted({*first, *second})
    return [
        found
        for key in keys
        for found in differing_keys(first.get(key), second.get(key), f'{path}.{key}'.lstrip('.'))
    ]


def random_batch(size, num_classes):
    """Images `[1, 3, size, size]` and their samples, with ignored pixels."""
    labels = torch.randint(num_classes, (1, size, size))
    labels[:, :4] = 255
    sample = SegDataSample(metainfo=dict(img_shape=(size, size), ori_shape=(size, size)))
    sample.gt_sem_seg = PixelData(data=labels)
    return torch.randn(1, 3, size, size), [sample]


def marked_long(words, paths):
    """Parameters of a test; configs with one of the words in their names are marked `long`."""
    return [
        pytest.param(path, marks=[pytest.mark.long] * any(word in path.stem for word in words))
        for path in paths
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    'path', marked_long(('_vit-l_', '-annealed_'), FILES), ids=lambda path: path.stem
)
def test_builds_and_runs_forward_and_backward(path):
    cfg = Config.fromfile(path)
    init_default_scope('mmseg')
    cfg.model.backbone.pop('init_cfg', None)
    model = MODELS.build(cfg.model)
    images, samples = random_batch(64, cfg.model.decode_head.num_classes)

    losses = model.train().loss(images, samples)
    losses['decode.loss_ce'].backward()

    assert losses['decode.loss_ce'].isfinite()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, 'parameters without gradient'
    del model, losses
    gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize(
    'path',
    marked_long(
        ('_full_', '_mita-dec_', '-annealed_'), [path for path in ADE20K if '_vit-t_' in path.stem]
    ),
    ids=lambda path: path.stem,
)
def test_vit_t_trains_two_iterations(path, shapes_root, tmp_path):
    cfg = Config.fromfile(path)
    cfg.work_dir = str(tmp_path)
    cfg.model.backbone.init_cfg = None
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.data_root = str(shapes_root)
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.default_hooks.checkpoint.interval = 2

    Runner.from_cfg(cfg).train()

    assert (tmp_path / 'iter_2.pth').exists()


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_name_tells_the_crop(path):
    match = NAME.fullmatch(path.stem)
    assert match, (
        'expected {algorithm}_{backbone}_{head}_{gpus}xb{batch}-{schedule}_{dataset}-{crop}'
    )
    crop = tuple(map(int, match.groups()))
    cfg = Config.fromfile(path)
    assert cfg.model.data_preprocessor.size == cfg.crop_size == crop
    # MMSegmentation's tools read it there, as in the stock configs.
    assert cfg.data_preprocessor == cfg.model.data_preprocessor


def test_ade20k_configs_are_the_announced_ones():
    """Sizes and variants of the page; each size has full attention and its MiTA twins."""
    page = (CONFIGS / 'mita_segmenter/README.md').read_text()
    sizes, variants = (
        re.findall(
            r'^\| `?([\w-]+)`? \|', page.partition(head)[2].partition('\n\n')[0], re.MULTILINE
        )
        for head in ('| size | ImageNet', '| variant |')
    )
    assert sorted(map(str.lower, sizes)) == SIZES
    assert {path.stem.split('_')[2] for path in ADE20K} == set(variants)
    for size in SIZES:
        for variant in ('full', 'mita-dec', 'mita-encdec'):
            ade20k_config(size, variant)


def test_base_names_are_unique():
    names = [path.name for path in CONFIGS.rglob('*.py')]
    assert len(names) == len(set(names)), 'MIM finds configs by base name'


@pytest.mark.parametrize('full, twin', list(twins()), ids=lambda path: path.stem)
def test_twins_differ_in_the_attention_only(full, twin):
    keys = ['model.decode_head.attn_cfg']
    if '_mita-encdec_' in twin.stem:
        keys.insert(0, 'model.backbone.attn_cfg')
    full, twin = Config.fromfile(full), Config.fromfile(twin)
    assert differing_keys(full.to_dict(), twin.to_dict()) == keys
    for part in ('backbone', 'decode_head'):
        options = dict(full.model[part].attn_cfg)
        assert options.pop('type') == 'FullAttention'
        assert options.items() <= dict(twin.model[part].attn_cfg).items()  # both have them


@pytest.mark.parametrize(
    'size', [size for size in SIZES if any(f'_{size}_mita-attnonly_' in p.stem for p in ADE20K)]
)
def test_attention_only_decoder_is_the_papers(size):
    """Its layers lack the feed-forward network, and there are more of them."""
    full, attnonly = ade20k_config(size, 'full'), ade20k_config(size, 'mita-attnonly')
    assert differing_keys(full.to_dict(), attnonly.to_dict()) == [
        'model.decode_head.attn_cfg',
        'model.decode_head.num_layers',
        'model.decode_head.with_ffn',
    ]
    head = attnonly.model.decode_head
    assert head.attn_cfg == ade20k_config(size, 'mita-dec').model.decode_head.attn_cfg
    assert head.num_layers > full.model.decode_head.num_layers and not head.with_ffn


@pytest.mark.parametrize(
    'path', [path for path in ADE20K if '_mita-encdec-annealed_' in path.stem], ids=lambda p: p.stem
)
def test_annealed_configs_differ_in_the_aids_alone(path):
    twin = path.with_name(path.name.replace('-annealed', ''))
    annealed, plain = (Config.fromfile(each) for each in (path, twin))
    parts = 'backbone', 'decode_head'
    assert differing_keys(plain.to_dict(), annealed.to_dict()) == [
        'default_hooks.anneal',
        *(f'model.{part}.attn_cfg' for part in parts),
    ]
    for part in parts:
        attn_cfg = plain.model[part].attn_cfg
        aids = {'kmeans_steps': 1, 'shared': False, 'remainder': True, 'topk': 2 * attn_cfg.topk}
        assert annealed.model[part].attn_cfg == {**attn_cfg, **aids}
    assert annealed.default_hooks.anneal.end < annealed.train_cfg.max_iters


@pytest.mark.parametrize('size', SIZES)
def test_stock_recipe_is_that_of_mmsegmentations_segmenter(size, tmp_path):
    ours = stock_config(size, tmp_path)
    stock = f'segmenter_{size}_mask_8xb1-160k_ade20k-512x512.py'
    stock = Config.fromfile(Path(mmseg.__file__).parent / '.mim/configs/segmenter' / stock)

    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg'):
        assert ours[key] == stock[key]
    assert ours.model.test_cfg == stock.model.test_cfg
    assert ours.model.data_preprocessor == stock.model.data_preprocessor
    assert ours.train_dataloader.batch_size == stock.train_dataloader.batch_size == 1
    loading = {'LoadImageFromFile', 'LoadAnnotations'}
    for mine, theirs in (
        (ours.train_pipeline, stock.train_pipeline),
        (ours.test_pipeline, stock.test_pipeline),
    ):
        assert [t.type for t in mine] == [t.type for t in theirs]
        assert {t.type for t in mine if t.get('_scope_') == 'mita_seg'} == loading
        assert [t for t in mine if t.type not in loading] == [
            t for t in theirs if t.type not in loading
        ]
    shared = set(stock.model.backbone) & set(ours.model.backbone) - {'type'}
    assert {k: ours.model.backbone[k] for k in shared} == {
        k: stock.model.backbone[k] for k in shared
    }
    weights = [Path(checkpoint).name for checkpoint in find(ours.model, 'checkpoint')]
    assert weights == [Path(stock.model.pretrained).name]
    assert ours.model.backbone.init_cfg.type == 'Pretrained'


def find(config, key):
    """All values of a key, at any depth."""
    if isinstance(config, dict):
        for name, value in config.items():
            if name == key:
                yield value
            yield from find(value, key)


@pytest.mark.parametrize('folder', ['mita_segmenter', 'mita_segmenter_camvid'])
def test_model_index_lists_every_config(folder):
    metafile = f'configs/{folder}/metafile.yaml'
    assert metafile in yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    index = yaml.safe_load((ROOT / metafile).read_text())
    listed = {model['Name']: model['Config'] for model in index['Models']}
    assert listed == {p.stem: str(p.relative_to(ROOT)) for p in (CONFIGS / folder).glob('*.py')}
    (collection,) = index['Collections']
    for model in index['Models']:
        assert model['In Collection'] == collection['Name']
        assert (ROOT / model['Code']).is_file() and model['Framework'] == 'PyTorch'


def table_below(path, heading):
    """Cells of the first table below a heading, row by row, without the title."""
    table = path.read_text().partition(heading)[2].partition('\n\n|')[2].partition('\n\n')[0]
    return [[cell.strip(' `') for cell in row.split('|')[1:-1]] for row in table.splitlines()[2:]]


def test_metafile_gives_the_miou_of_the_study():
    study = {}
    for kind, patch16, *_, patch8 in table_below(
        ROOT / 'experiments/camvid/README.md', '## Results'
    ):
        study[f'p16_{kind}'] = patch16
        if patch8:
            study[f'p8_{kind}'] = str(fmean(map(float, patch8.split(','))))
    assert len(study) == 13
    folder = CONFIGS / 'mita_segmenter_camvid'
    page = {name: figure for name, _, figure in table_below(folder / 'README.md', '## Configs')}
    for model in yaml.safe_load((folder / 'metafile.yaml').read_text())['Models']:
        (result,) = model['Results']
        name = model['Name'].partition('vit-t-')[2].partition('_1xb')[0]
        if name in study:
            assert result['Metrics']['mIoU'] == pytest.approx(float(study[name].split()[0]))
            assert page.pop(name).split() in (study[name].split(), [str(result['Metrics']['mIoU'])])
        else:
            assert 'Metrics' not in result and page.pop(name) == ''
    assert not page
