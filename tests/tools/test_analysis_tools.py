import json

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

import mita_seg.models  # noqa: F401

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tool, tiny, shapes_configs, tmp_path):
    """Run a tool on an untrained model of the demonstration's MiTA config."""

    def run(name, *more, config=shapes_configs[1]):
        options = [
            option
            for option in tiny
            if option.startswith(('crop_size', 'model', 'val_data', 'test_data'))
        ]
        cfg = Config.fromfile(config)
        init_default_scope('mmseg')
        cfg.merge_from_dict({'model.backbone.img_size': (64, 64), 'model.backbone.num_layers': 1})
        checkpoint = tmp_path / 'model.pth'
        torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, checkpoint)
        options += ['train_dataloader=None', 'train_cfg=None', 'optim_wrapper=None']
        options += ['param_scheduler=None', f'experiment_name={name}{tmp_path.name}']
        arguments = [config, checkpoint, '--work-dir', tmp_path, *more, '--cfg-options', *options]
        tool(name).main(list(map(str, arguments)))

    return run


def test_routing_report_has_a_row_a_layer(run, tmp_path, capsys):
    run('analyze_routing', '--images', '3')
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / 'routing.json').read_text())
    layers, gradients = report['layers'], report['gradients']
    assert list(layers) == ['backbone.layers.0.attn', 'decode_head.layers.0.attn']
    assert list(gradients) == list(layers)
    assert all(figures['value_routed'] > 0 for figures in gradients.values())
    assert all(0 < figures['key_shared_share'] < 1 for figures in gradients.values())
    for name, figures in layers.items():
        assert name in printed
        assert all(0 <= figure <= 1 for figure in figures.values())
    assert 0 < layers['backbone.layers.0.attn']['shared_mass'] < 1
    assert all(0 < head < 1 for head in report['recall']['backbone.layers.0.attn']['overlap'])
    assert (tmp_path / 'recall.png').exists()


def test_recall_as_full_attention(run, tmp_path, capsys):
    run('analyze_routing', '--images', '2', '--as-full')
    assert 'overlap %' in capsys.readouterr().out
    report = json.loads((tmp_path / 'routing.json').read_text())
    assert 'layers' not in report and list(report['recall']) == [
        'backbone.layers.0.attn',
        'decode_head.layers.0.attn',
    ]


@pytest.fixture
def swapped_config(shapes_configs, tmp_path):
    """The demonstration's full attention, swapped."""
    path = tmp_path / 'swapped.py'
    path.write_text(
        f"_base_ = {shapes_configs[0]!r}\nmodel = dict(type='mita_seg.models.build_swapped', "
        "segmentor='EncoderDecoder', attn_cfg=dict(landmarks=(4, 4), topk=16))\n"
    )
    return path


def test_routing_of_a_swapped_model_is_reported(run, swapped_config, tmp_path):
    run('analyze_routing', '--images', '1', config=swapped_config)
    layers = json.loads((tmp_path / 'routing.json').read_text())['layers']
    assert list(layers) == [
        'backbone.layers.0.attn.mita.attention',
        'decode_head.layers.0.attn.mita.attention',
    ]


def test_sweep_of_a_swapped_model(run, swapped_config, tmp_path):
    run('sweep_experts', '--landmarks', '4x4', '--topk', '0', '16', config=swapped_config)
    cells = json.loads((tmp_path / 'sweep.json').read_text())['cells']
    assert len(cells) == 2


def test_sweep_evaluates_each_cell_and_draws_them(run, tmp_path, capsys):
    run('sweep_experts', '--landmarks', '1x2', '4x4', '--topk', '0', '16')
    assert '4x4 landmarks, 16 keys' in capsys.readouterr().out
    sweep = json.loads((tmp_path / 'sweep.json').read_text())
    assert sweep['trained'] == {'landmarks': [6, 6], 'topk': 36}
    assert len(sweep['cells']) == 4
    assert (tmp_path / 'sweep.png').stat().st_size > 5_000


@pytest.mark.parametrize('name', ['analyze_routing', 'sweep_experts'])
def test_model_without_experts_is_refused_in_one_sentence(run, shapes_configs, name, capsys):
    with pytest.raises(SystemExit) as end:
        run(name, config=shapes_configs[0])
    assert end.value.code == 2
    assert f'{name}.py: the model has no MiTAAttention' in capsys.readouterr().err


def test_impossible_sweep_is_refused_before_anything_is_evaluated(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        run('sweep_experts', '--landmarks', '0x2')
    assert end.value.code == 2
    assert 'landmarks must be two ints of at least 1' in capsys.readouterr().err
    assert not (tmp_path / 'sweep.json').exists()
