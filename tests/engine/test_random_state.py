"""The state of the generators, that of a GPU included."""

import pytest

pytest.importorskip('mmseg')

import torch

from mita_seg.engine.random_state import random_state, restore_random_state


@pytest.fixture
def gpu(monkeypatch):
    """A GPU whose generator is a tensor."""
    held = {'state': torch.arange(16, dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_rng_state', lambda: held['state'].clone())
    monkeypatch.setattr(torch.cuda, 'set_rng_state', lambda state: held.update(state=state))
    return held


def test_the_state_of_a_gpu_is_kept_and_restored(gpu, tmp_path):
    torch.save(random_state(), tmp_path / 'state.pth')
    gpu['state'] = torch.zeros(16, dtype=torch.uint8)
    restore_random_state(torch.load(tmp_path / 'state.pth', weights_only=True))
    assert torch.equal(gpu['state'], torch.arange(16, dtype=torch.uint8))
    assert gpu['state'].device.type == 'cpu'  # as torch wants it


def test_a_gpu_that_is_not_in_use_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: False)
    monkeypatch.setattr(torch.cuda, 'set_rng_state', lambda state: pytest.fail('was set'))
    state = random_state()
    assert 'cuda' not in state
    restore_random_state(state)


def test_the_state_of_a_gpu_does_not_hinder_a_cpu(gpu, monkeypatch):
    state = random_state()
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    gpu['state'] = None
    restore_random_state(state)
    assert gpu['state'] is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_a_real_gpu_draws_the_same_again():
    torch.zeros(1, device='cuda')  # it is in use from now on
    state = random_state()
    first = torch.rand(100, device='cuda')
    torch.rand(100, device='cuda')
    restore_random_state(state)
    assert torch.equal(torch.rand(100, device='cuda'), first)
