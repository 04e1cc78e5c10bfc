"""tools/choose_layers.py on an untrained model, and the choice by itself."""

import json

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

import mita_seg.models  # noqa: F401
from mita_seg.layer_choice import costs
from mita_seg.layer_choice.choice import choose, steps, with_layers


@pytest.fixture
def run(tool, tiny, shapes_configs, tmp_path):
    options = [option for option in tiny if 'num_layers' not in option]
    options += ['model.backbone.num_layers=3', f'experiment_name=choose{tmp_path.name}']

    def run(*more, config=shapes_configs[1]):
        cfg = Config.fromfile(config)
        init_default_scope('mmseg')
        cfg.merge_from_dict({'model.backbone.img_size': (64, 64), 'model.backbone.num_layers': 3})
        torch.manual_seed(0)
        weights = MODELS.build(cfg.model).state_dict()
        # Far from uniform attention, so that it matters which.
        weights = {name: 3 * w if 'weight' in name else w for name, w in weights.items()}
        checkpoint = tmp_path / 'model.pth'
        torch.save({'state_dict': weights}, checkpoint)
        arguments = [config, checkpoint, '--work-dir', tmp_path, *more, '--cfg-options', *options]
        tool('choose_layers').main(list(map(str, arguments)))
        return json.loads((tmp_path / 'choose_layers.json').read_text())

    return run


@pytest.mark.slow
def test_layers_are_measured_chosen_and_the_config_trains(run, tool, tmp_path, capsys, monkeypatch):
    found = run('--images', '3', '--max-drop', '100')
    printed = capsys.readouterr().out
    assert '| layer | loss' in printed and '| layers | loss' in printed
    quality = found['quality']
    assert list(quality)[:4] == ['none', '0', '1', '2'] and '0 1 2' in quality
    assert len(quality) == 6
    assert quality['0']['loss'] != quality['none']['loss']
    assert [len(step['layers']) for step in found['steps']] == [0, 1, 2, 3]
    assert found['chosen']['layers'] == [0, 1, 2]
    assert (tmp_path / 'choose_layers.png').exists()

    # Again: nothing is measured, another choice is made.
    monkeypatch.setattr('mita_seg.layer_choice.quality.evaluate', None)
    monkeypatch.setattr(costs, 'measure_times', None)
    rises = sorted(quality[str(layer)]['loss'] - quality['none']['loss'] for layer in range(3))
    again = run('--images', '3', '--max-drop', str(rises[0]) if rises[0] > 0 else '0')
    assert again['quality'] == quality
    kinds = Config.fromfile(next(tmp_path.glob('*_chosen.py'))).model.backbone.attn_cfg
    assert [i for i, kind in enumerate(kinds) if kind.type == 'MiTAAttention'] == (
        again['chosen']['layers']
    )
    config = next(tmp_path.glob('*_chosen.py'))
    tool('train').main([str(config), '--work-dir', str(tmp_path / 'trained')])
    assert (tmp_path / 'trained/iter_4.pth').exists()


@pytest.mark.slow
def test_a_measurement_of_other_settings_is_not_gone_on_with(run, capsys, tmp_path):
    settings = {'config': 'other.py', 'images': 3}
    (tmp_path / 'choose_layers.json').write_text(json.dumps({'settings': settings, 'quality': {}}))
    with pytest.raises(SystemExit) as exit_info:
        run('--images', '3')
    assert exit_info.value.code == 2
    assert 'another config and checkpoint' in capsys.readouterr().err


@pytest.mark.slow
def test_a_config_without_mita_in_the_encoder_is_refused(run, shapes_configs, capsys):
    with pytest.raises(SystemExit) as exit_info:
        run(config=shapes_configs[0])
    assert exit_info.value.code == 2
    assert 'MiTAAttention' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--images', '0'], '--images must be at least 1, got 0'),
        (['--max-drop', '-1'], '--max-drop must be a number from 0 on, got -1'),
        (['--max-drop', '1', '--budget-ms', '1'], 'not allowed with'),
    ],
)
def test_bad_arguments_are_refused(tool, arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        tool('choose_layers').main(['config.py', 'model.pth', *arguments])
    assert exit_info.value.code == 2 and message in capsys.readouterr().err


ORDER = [2, 0, 1]
QUALITY = {
    'none': {'loss': 1.0, 'mIoU': 50.0},
    '2': {'loss': 1.01, 'mIoU': 49.9},
    '0 2': {'loss': 1.2, 'mIoU': 49.0},
    '0 1 2': {'loss': 1.1, 'mIoU': 45.0},
}
TIMES = {layer: {'full': 2.0, 'mita': 0.5} for layer in range(3)}


@pytest.mark.parametrize(
    ('budget', 'layers'),
    [
        ({'budget_ms': 4.6}, [2]),
        ({'budget_ms': 3.0}, [0, 2]),
        ({'max_drop': 0.05}, [2]),
        ({'max_drop': 0.1001}, [0, 1, 2]),
        ({'max_drop': 1.0, 'by': 'mIoU'}, [0, 2]),
        ({'number': 2}, [0, 2]),
    ],
)
def test_choice(budget, layers):
    found = steps(ORDER, QUALITY, TIMES)
    assert [step['ms'] for step in found] == [6.0, 4.5, 3.0, 1.5]
    assert choose(found, **budget)['layers'] == layers


@pytest.mark.parametrize(
    ('budget', 'message'),
    [
        ({'budget_ms': 1.0}, 'cannot be kept: 1.5 ms is the least'),
        ({'budget_ms': 6.0}, 'takes 6 ms; there is nothing to swap'),
        ({'max_drop': 0.001}, 'cannot be kept: the least drop by loss is 0.01'),
        ({'number': 4}, '--number must be from 1 to 3 layers, got 4'),
    ],
)
def test_budgets_that_cannot_be_kept(budget, message):
    with pytest.raises(ValueError, match=message):
        choose(steps(ORDER, QUALITY, TIMES), **budget)


def test_layers_with_full_attention_keep_what_has_parameters():
    attention = {'type': 'MiTAAttention', 'topk': 5, 'dwc': True}
    cfg = Config({'model': {'backbone': {'attn_cfg': attention, 'num_layers': 2}}})
    assert with_layers(cfg, [1]).model.backbone.attn_cfg == [
        {'type': 'FullAttention', 'dwc': True},
        attention,
    ]
    assert cfg.model.backbone.attn_cfg == attention
