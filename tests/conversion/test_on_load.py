"""A config's `init_cfg` names the original file; it is converted while it is loaded."""

import numpy as np
import pytest
import torch

from support import conversion_cases as cases

pytest.importorskip('mmseg')

from mita_seg.conversion import convert
from mita_seg.models import MiTAVisionTransformer
from mita_seg.models import pretrained as pretrained_module


@pytest.fixture
def messages(monkeypatch):
    logged = []
    monkeypatch.setattr(pretrained_module, 'print_log', lambda text, **_: logged.append(text))
    return logged


def load(path, **options):
    init_cfg = {'type': 'Pretrained', 'checkpoint': str(path)}
    model = MiTAVisionTransformer(**{**cases.MODEL, **options}, init_cfg=init_cfg)
    model.init_weights()
    return model


def assert_holds(model, weights):
    own = model.state_dict()
    assert own.keys() == weights.keys()
    assert all(torch.equal(own[name], weights[name]) for name in own)


def test_jax_file(tmp_path, messages):
    np.savez(tmp_path / 'augreg.npz', **cases.augreg())
    with np.load(tmp_path / 'augreg.npz') as arrays:
        expected = convert({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    assert_holds(load(tmp_path / 'augreg.npz'), expected.weights)
    assert messages == []


def test_safetensors_file(tmp_path, messages):
    safetensors = pytest.importorskip('safetensors.torch')
    safetensors.save_file(cases.timm_vit(), tmp_path / 'timm.safetensors')
    expected = convert(safetensors.load_file(tmp_path / 'timm.safetensors'))
    assert_holds(load(tmp_path / 'timm.safetensors'), expected.weights)
    assert messages == []


@pytest.mark.parametrize(
    ('make', 'options'),
    [
        (lambda: cases.dinov2(registers=3), {'num_registers': 3}),
        (
            lambda: {**cases.timm_vit(entries=2), 'dist_token': torch.randn(1, 1, 32)},
            {'num_registers': 1},
        ),
        (
            lambda: {'model': cases.mita_deit(gate=True)},
            {'attn_cfg': {'type': 'MiTAAttention', 'dwc': True, 'gate': True}},
        ),
        (lambda: {'teacher': {f'backbone.{n}': w for n, w in cases.timm_vit().items()}}, {}),
    ],
)
def test_pickled_files(tmp_path, messages, make, options):
    checkpoint = make()
    torch.save(checkpoint, tmp_path / 'weights.pth')
    conversion = convert(checkpoint)
    assert_holds(load(tmp_path / 'weights.pth', **options), conversion.weights)
    assert [message.split(': ', 1)[1] for message in messages] == conversion.notes


@pytest.mark.parametrize('source', ['timm', 'torch-deit', 'dinov2', 'mita-deit', 'augreg-npz'])
def test_settings_of_the_report_build_a_model_that_holds_every_weight(source):
    make = {
        'timm': lambda: {n: w for n, w in cases.timm_vit().items() if 'qkv.bias' not in n},
        'torch-deit': lambda: {
            'model': {**cases.timm_vit(entries=2), 'dist_token': torch.ones(1, 1, 32)}
        },
        'dinov2': lambda: cases.dinov2(registers=4),
        'mita-deit': lambda: {'model': cases.mita_deit(gate=True)},
        'augreg-npz': cases.augreg_tensors,
    }[source]
    conversion = convert(make(), source)
    assert conversion.settings.get('num_heads', 2) == 2
    model = MiTAVisionTransformer(**{'num_heads': 2, **conversion.settings})
    model.load_state_dict(conversion.weights, strict=True)
    assert model(torch.randn(1, 3, 32, 48))[0].shape == (1, 32, 4, 6)


@pytest.mark.parametrize(
    ('checkpoint', 'message'),
    [
        (lambda: cases.dinov2(registers=4), r'w\.pth.* has registers; set num_registers=4'),
        (
            lambda: {**cases.timm_vit(), 'blocks.0.mlp.w12.weight': torch.zeros(1)},
            r"w\.pth': .*w12\.weight is of a gated",
        ),
    ],
)
def test_weights_that_would_compute_something_else_are_refused(tmp_path, checkpoint, message):
    torch.save(checkpoint(), tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=message):
        load(tmp_path / 'w.pth')
