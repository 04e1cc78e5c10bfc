"""Variants of a config: how they are written, what is trained, and what the results say of them."""

import json
from pathlib import Path

import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config

from mita_seg.comparison.results import short_names, write_report
from mita_seg.comparison.runs import make_runs, read_results
from mita_seg.comparison.variants import Variant, check_keys, parse_variant

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


@pytest.fixture
def options(shapes_root):
    return {f'{loader}.dataset.data_root': str(shapes_root) for loader in LOADERS}


def test_a_config_alone_is_named_by_its_file():
    assert parse_variant('configs/a_full_b.py') == Variant('configs/a_full_b.py', 'a_full_b')
    assert parse_variant('a@b/c.py') == Variant('a@b/c.py', 'c')


@pytest.mark.parametrize(
    'text, options',
    [
        ('', {}),
        (':topk=0', {'topk': 0}),
        (':a.b=1,c=x', {'a.b': 1, 'c': 'x'}),
        (':a=(6,8),b=[(1,2),[3,4]],c=1e-3', {'a': (6, 8), 'b': [(1, 2), [3, 4]], 'c': 1e-3}),
        (":a='1,2',b=True", {'a': [1, 2], 'b': True}),
        (':a=x=y:z@w,b=None', {'a': 'x=y:z@w', 'b': None}),
    ],
)
def test_values_are_written_as_for_cfg_options(text, options):
    assert parse_variant(f'some/a.py@mita-x{text}') == Variant('some/a.py', 'mita-x', options)


@pytest.mark.parametrize(
    'text, words',
    [
        ('a.py@:b=1', "'a.py@:b=1': the label must be of letters.* got ''"),
        ('a.py@', "got ''"),
        ('a.py@x/y:b=1', "got 'x/y'"),
        ('a.py@x:', "'' is no KEY=VALUE"),
        ('a.py@x:b', "'b' is no KEY=VALUE"),
        ('a.py@x:b=1,', "'' is no KEY=VALUE"),
        ('a.py@x:=1', "'=1' is no KEY=VALUE"),
        ('a.py@x:b=6,8', r"'8' is no KEY=VALUE .*needs brackets, as in crop_size=\(64,64\)"),
        ('a.py@x:b=(6,8', r"bracket is not closed in 'b=\(6,8'"),
        ('a.py@x:b=1,b=2', "'b' is given twice"),
    ],
)
def test_what_is_no_variant_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse_variant(text)


@pytest.mark.parametrize(
    'key, meant',
    [
        ('modle.backbone.embed_dims', "'model'"),
        ('model.bakbone.embed_dims', "'model.backbone'"),
        ('scheduler.0.ends', "'scheduler.0.end'"),
    ],
)
def test_misspelt_keys_are_refused_and_new_ones_are_not(key, meant):
    cfg = Config({'model': {'backbone': {'embed_dims': 1}}, 'scheduler': [{'end': 1}]})
    with pytest.raises(
        ValueError, match=rf'option .{key}.: the config has no .*, did you mean {meant}\?'
    ):
        check_keys(cfg, {key: 1})
    new = ('model.backbone.dwc', 'randomness.seed', 'model.head.a.b', 'scheduler.7.end', 'model.a')
    check_keys(cfg, dict.fromkeys([*new, 'model.backbone.embed_dims.deeper'], 1))


def test_a_name_is_given_once(shapes_configs, tmp_path):
    full, mita = shapes_configs
    with pytest.raises(ValueError, match='label given twice: a$'):
        make_runs([f'{full}@a', f'{mita}@a:model.backbone.num_layers=1'], tmp_path)


@pytest.mark.slow
def test_variants_are_kept_with_their_settings_which_may_not_change(
    shapes_configs, options, tmp_path
):
    full, mita = shapes_configs
    key, general = 'model.backbone.num_layers', {**options, 'train_cfg.max_iters': 7}
    general['model.backbone.num_layers'] = 3  # for every config; the variant's own goes before it
    texts = [full, f'{mita}@deep:{key}=5', f'{mita}@flat:{key}=1']
    plain, deep, flat = make_runs(texts, tmp_path, cfg_options=general)
    assert [run.name for run in (plain, deep, flat)] == [Path(full).stem, 'deep', 'flat']
    kept = [Config.fromfile(run.config) for run in (plain, deep, flat)]
    assert [cfg.model.backbone.num_layers for cfg in kept] == [3, 5, 1]
    assert {cfg.train_cfg.max_iters for cfg in kept} == {7}

    assert make_runs([texts[1]], tmp_path, cfg_options=general) == [deep]
    with pytest.raises(ValueError, match=r"deep' holds runs of this name with other settings"):
        make_runs([f'{mita}@deep:{key}=6'], tmp_path, cfg_options=general)
    with pytest.raises(ValueError, match='num_layer.: the config has no'):
        make_runs([f'{mita}@other:model.backbone.num_layer=6'], tmp_path, cfg_options=general)


def test_data_root_is_of_all_runs(shapes_configs, shapes_root, options, tmp_path):
    full, mita = shapes_configs
    texts = [full, f'{mita}@flat:model.backbone.num_layers=1']
    by_options = [
        Config.fromfile(run.config) for run in make_runs(texts, tmp_path / 'a', cfg_options=options)
    ]
    by_root = make_runs(texts, tmp_path / 'b', data_root=str(shapes_root))
    assert [Config.fromfile(run.config).to_dict() for run in by_root] == [
        cfg.to_dict() for cfg in by_options
    ]


def test_runs_without_validation_join_those_with_it(shapes_configs, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no data lie that the demo has drawn
    full, mita = shapes_configs
    without = ','.join(f'val_{part}=None' for part in ('cfg', 'dataloader', 'evaluator'))
    make_runs([mita], tmp_path, cfg_options=options)
    del options['val_dataloader.dataset.data_root']
    with pytest.raises(FileNotFoundError, match='val_dataloader: data_root'):
        make_runs([full], tmp_path, cfg_options=options)
    make_runs([f'{full}@never:{without}'], tmp_path, cfg_options=options)


def test_attention_that_a_variant_cannot_have_is_refused(shapes_configs, options, tmp_path):
    with pytest.raises((ValueError, TypeError), match='topk'):
        make_runs(
            [f'{shapes_configs[1]}@bad:model.backbone.attn_cfg.topk=-3'],
            tmp_path,
            cfg_options=options,
        )


def test_results_tell_the_settings_of_each_run(shapes_configs, options, tmp_path):
    full, mita = shapes_configs
    text = f'{mita}@mita-route:model.backbone.attn_cfg.shared=False'
    runs = make_runs([full, text], tmp_path, cfg_options=options)
    figures = dict.fromkeys(('mIoU', 'aAcc', 'mAcc', 'params', 'flops_model', 'flops_decoder'), 1)
    figures |= dict.fromkeys(('iter_ms', 'latency_ms', 'peak_mem_mb'), 1)
    environment = {'device': 'd', 'torch': 't', 'timing': 'x', 'peak_mem_mb': 'y'}
    for run in runs:
        checkpoint = run.folder / 'iter_1.pth'
        checkpoint.touch()
        found = {'checkpoint': str(checkpoint.relative_to(tmp_path)), 'environment': environment}
        found |= {'config': run.name, 'seed': 0, **figures}
        for name in ('evaluation', 'result'):
            (run.folder / f'{name}.json').write_text(json.dumps(found))
    table = write_report(tmp_path, read_results(runs, tmp_path), 'compare.py')
    assert '| mita-route ' in table
    plain, route = json.loads((tmp_path / 'results.json').read_text())['runs']
    assert (plain['config_file'], plain['options']) == (full, {})
    assert route['config_file'] == mita
    assert route['options'] == {'model.backbone.attn_cfg.shared': False}
    assert (
        f'`mita-route`: `{mita}` with `model.backbone.attn_cfg.shared=False`.'
        in (tmp_path / 'results.md').read_text()
    )


def test_names_of_files_and_labels_are_shortened_apart():
    files = ['net_full_data', 'net_mita-dec_data']
    assert short_names([*files, 'mita-route']) == ['full', 'mita-dec', 'mita-route']
    assert short_names(['p16_full', 'p16_mita-route']) == ['full', 'mita-route']
    assert short_names([*files, 'full']) == [*files, 'full']
