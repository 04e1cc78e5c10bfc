import argparse
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from mita_seg.checkpoint import find_resumable, guard_mmengine_loading, load_checkpoint_safely


class RunsCode:
    """A pickle of this runs a shell command when it is read."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Reaches:
    """A pickle of this reads an attribute of a class that checkpoints may hold."""

    def __init__(self, owner, name):
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


def own_checkpoint():
    """What MMEngine saves: weights, numpy values and log buffers with their methods."""
    logging = pytest.importorskip('mmengine.logging')
    return {
        'meta': {'best_score': np.float64(41.5), 'palette': np.zeros((2, 3), np.uint8), 'iter': 7},
        'state_dict': {'weight': torch.arange(3.0)},
        'message_hub': {'log_scalars': {'loss': logging.HistoryBuffer([1.0, 3.0], [1, 1])}},
    }


def test_own_checkpoint_loads(tmp_path):
    path = tmp_path / 'own.pth'
    torch.save(own_checkpoint(), path)
    loaded = load_checkpoint_safely(path)
    assert loaded['meta']['best_score'] == 41.5
    assert loaded['meta']['palette'].shape == (2, 3)
    assert torch.equal(loaded['state_dict']['weight'], torch.arange(3.0))
    assert loaded['message_hub']['log_scalars']['loss'].mean() == 2.0


def test_options_of_deit_load(tmp_path):
    path = tmp_path / 'deit.pth'
    torch.save({'model': {}, 'args': argparse.Namespace(model='deit_tiny', lr=0.1)}, path)
    assert load_checkpoint_safely(path)['args'].model == 'deit_tiny'


def test_npz_loads(tmp_path):
    path = tmp_path / 'jax.npz'
    np.savez(path, kernel=np.arange(6, dtype=np.float16).reshape(2, 3), step=np.int64(7))
    loaded = load_checkpoint_safely(path)
    assert torch.equal(loaded['kernel'], torch.arange(6).half().view(2, 3))
    assert loaded['step'] == 7


def test_safetensors_load(tmp_path):
    safetensors = pytest.importorskip('safetensors.torch')
    path = tmp_path / 'hub.safetensors'
    safetensors.save_file({'weight': torch.arange(3.0)}, path)
    assert torch.equal(load_checkpoint_safely(path)['weight'], torch.arange(3.0))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"hub.safetensors' is truncated"):
        load_checkpoint_safely(path)


@pytest.mark.parametrize(
    'value', [lambda trace: [RunsCode(f'touch {trace}')], lambda _: ['text']], ids=['code', 'text']
)
def test_npz_of_anything_but_numbers_is_refused_and_not_run(tmp_path, value):
    path, trace = tmp_path / 'evil.npz', tmp_path / 'trace'
    np.savez(path, kernel=np.zeros(2), extra=np.array(value(trace)))
    with pytest.raises(ValueError, match=r"evil.npz' is refused: it holds extra"):
        load_checkpoint_safely(path)
    assert not trace.exists()


def test_other_content_under_the_name_of_an_npz_is_refused_and_not_run(tmp_path):
    path, trace = tmp_path / 'evil.npz', tmp_path / 'trace'
    path.write_bytes(pickle.dumps(RunsCode(f'touch {trace}')))
    with pytest.raises(ValueError, match=r"evil.npz' is truncated, damaged"):
        load_checkpoint_safely(path)
    torch.save({'state_dict': RunsCode(f'touch {trace}')}, path)
    with pytest.raises(ValueError, match=r"evil.npz' is refused"):
        load_checkpoint_safely(path)
    assert not trace.exists()


@pytest.mark.parametrize('legacy', [False, True])
def test_code_is_refused_and_not_run(tmp_path, legacy):
    path, trace = tmp_path / 'evil.pth', tmp_path / 'trace'
    torch.save(
        {'state_dict': RunsCode(f'touch {trace}')}, path, _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(ValueError, match=r"evil.pth' is refused: it holds \w+.system"):
        load_checkpoint_safely(path)
    assert not trace.exists()


@pytest.mark.parametrize('name', ['__init__', '__globals__', '_set_default_statistics'])
def test_getattr_is_limited_to_statistics(tmp_path, name):
    logging = pytest.importorskip('mmengine.logging')
    path = tmp_path / 'reach.pth'
    torch.save({'x': Reaches(logging.HistoryBuffer, name)}, path)
    with pytest.raises(ValueError, match='refused'):
        load_checkpoint_safely(path)


def test_getattr_of_numpy_is_refused(tmp_path):
    path = tmp_path / 'reach.pth'
    torch.save({'x': Reaches(np.ndarray, 'tofile')}, path)
    with pytest.raises(ValueError, match='refused'):
        load_checkpoint_safely(path)


@pytest.mark.parametrize('keep', [0.0, 0.3, 0.9])
def test_truncated_file_is_named(tmp_path, keep):
    path = tmp_path / 'half.pth'
    torch.save({'state_dict': {'weight': torch.zeros(1000)}}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ValueError, match=r"half.pth' is (empty|truncated)"):
        load_checkpoint_safely(path)


def test_other_content_is_named(tmp_path):
    path = tmp_path / 'page.pth'
    path.write_text('<html>not found</html>' * 20)
    with pytest.raises(ValueError, match='page.pth'):
        load_checkpoint_safely(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(ValueError, match='holds a list'):
        load_checkpoint_safely(path)


def test_missing_file_and_unknown_address():
    with pytest.raises(FileNotFoundError, match='nowhere.pth'):
        load_checkpoint_safely('nowhere.pth')
    with pytest.raises(ValueError, match='torchvision://resnet50'):
        load_checkpoint_safely('torchvision://resnet50')


def test_download_is_read_safely(tmp_path, monkeypatch):
    served = tmp_path / 'served.pth'
    torch.save({'state_dict': {'weight': torch.ones(2)}}, served)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(
        torch.hub,
        'download_url_to_file',
        lambda url, path: Path(path).write_bytes(served.read_bytes()),
    )
    loaded = load_checkpoint_safely('https://example.org/served.pth?download=1')
    assert torch.equal(loaded['state_dict']['weight'], torch.ones(2))
    assert (tmp_path / 'hub' / 'checkpoints' / 'served.pth').exists()


def test_guard_covers_mmengine(tmp_path):
    runner = pytest.importorskip('mmengine.runner')
    guard_mmengine_loading()
    path, trace = tmp_path / 'evil.pth', tmp_path / 'trace'
    model = torch.nn.Linear(1, 1)
    torch.save({'state_dict': RunsCode(f'touch {trace}')}, path)
    with pytest.raises(ValueError, match='refused'):
        runner.load_checkpoint(model, str(path))
    assert not trace.exists()

    # MMEngine would execute this text when it resumes.
    torch.save({'state_dict': model.state_dict(), 'meta': {'config': 'raise SystemExit'}}, path)
    assert 'config' not in runner.load_checkpoint(model, str(path))['meta']


def test_resume_skips_the_file_a_kill_left_behind(tmp_path):
    assert find_resumable(tmp_path) is None
    for name in ('iter_9.pth', 'iter_10.pth', 'best_mIoU.pth'):
        torch.save({'state_dict': {}}, tmp_path / name)
    assert find_resumable(tmp_path) == str(tmp_path / 'iter_10.pth')
    (tmp_path / 'iter_11.pth').write_bytes((tmp_path / 'iter_10.pth').read_bytes()[:100])
    assert find_resumable(tmp_path) == str(tmp_path / 'iter_10.pth')
