"""The ways on which MMEngine loads checkpoints by itself run no code of a file."""

import os
import subprocess
import sys

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader

import mita_seg.models  # noqa: F401


class RunsCode:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (self.trace,)


@pytest.fixture
def evil(tmp_path):
    """A checkpoint that makes a folder when it is read, and the folder."""
    path, trace = tmp_path / 'evil.pth', tmp_path / 'trace'
    model = {'weight': torch.zeros(1, 1), 'bias': torch.zeros(1)}
    torch.save({'state_dict': model, 'meta': {}, 'more': RunsCode(str(trace))}, path)
    return str(path), trace


def test_initialisation_of_a_module(evil):
    path, trace = evil
    module = BaseModule(init_cfg={'type': 'Pretrained', 'checkpoint': path})
    with pytest.raises(ValueError, match='refused'):
        module.init_weights()
    assert not trace.exists()


def test_addresses_of_other_schemes(evil, monkeypatch):
    path, trace = evil
    served = 'https://example.org/model.pth'
    monkeypatch.setattr('mita_seg.checkpoint.loading.download', lambda url: path)
    monkeypatch.setattr(
        'mmengine.runner.checkpoint.get_torchvision_models', lambda: {'resnet': served}
    )
    for address in (served, 'torchvision://resnet'):
        with pytest.raises(ValueError, match='refused'):
            CheckpointLoader.load_checkpoint(address)
    assert not trace.exists()


def test_loader_that_a_program_has_registered_stays():
    CheckpointLoader.register_scheme('mine://', lambda name, map_location: {'name': name})
    try:
        assert CheckpointLoader.load_checkpoint('mine://x') == {'name': 'mine://x'}
    finally:
        del CheckpointLoader._schemes['mine://']


@pytest.mark.slow
def test_model_of_mmsegs_own_interface(evil, tmp_path):
    path, trace = evil
    script = f"""
from mmseg.apis import init_model
model = dict(type='mita_seg.models.build_swapped', segmentor='EncoderDecoder',
             attn_cfg=dict(landmarks=(2, 2), topk=4),
             backbone=dict(type='VisionTransformer', img_size=32, patch_size=8, embed_dims=16,
                           num_layers=1, num_heads=1, out_indices=0),
             decode_head=dict(type='FCNHead', in_channels=16, in_index=0, channels=16,
                              num_convs=0, concat_input=False, num_classes=2,
                              norm_cfg=dict(type='BN')),
             test_cfg=dict(mode='whole'))
from mmengine.config import Config
try:
    init_model(Config(dict(model=model, default_scope='mmseg')), {path!r}, device='cpu')
except ValueError as error:
    assert 'refused' in str(error), error
else:
    raise AssertionError('loaded')
"""
    subprocess.run([sys.executable, '-c', script], check=True)
    assert not trace.exists()


def test_text_of_a_config_is_not_executed(tmp_path):
    path, trace = tmp_path / 'file.pth', tmp_path / 'trace'
    text = f'import os\nos.mkdir({str(trace)!r})\n'
    meta = {'iter': 1, 'epoch': 0, 'config': text}
    torch.save({'state_dict': {}, 'meta': meta, 'message_hub': {}}, path)
    assert 'config' not in CheckpointLoader.load_checkpoint(str(path))['meta']
    assert not trace.exists()
