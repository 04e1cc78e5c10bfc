from types import SimpleNamespace

import pytest

pytest.importorskip('mmengine')

import torch

from mita_seg.engine import peak_memory


@pytest.fixture
def allocator(monkeypatch):
    """A CUDA allocator's count of the peak, in bytes."""
    count = SimpleNamespace(peak=0)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda: count.peak)
    monkeypatch.setattr(torch.cuda, 'reset_peak_memory_stats', lambda: setattr(count, 'peak', 0))
    return count


def train(hook, allocator, peaks, begin=0):
    """Iterations that each need so much; the log starts the count anew after every third."""
    for index, peak in enumerate(peaks):
        runner = SimpleNamespace(iter=begin + index)
        hook.before_train_iter(runner, index)
        allocator.peak = max(allocator.peak, peak)
        hook.after_train_iter(runner, index)
        if index % 3 == 2:
            allocator.peak = 0
    hook.after_train(runner)


@pytest.mark.parametrize('begin', [0, 700])  # from the start, or resumed
def test_peak_outlives_the_log_and_leaves_out_the_first_iteration(allocator, begin):
    """As with CUDA graphs, of which later iterations allocate next to nothing."""
    hook = peak_memory.PeakMemoryHook()
    train(hook, allocator, [900, 300, 500, 10, 10, 10, 10], begin)
    assert hook.peak_bytes == 500


def test_growth_since_the_last_log_counts(allocator):
    hook = peak_memory.PeakMemoryHook()
    train(hook, allocator, [300] * 21 + [400])
    assert hook.peak_bytes == 400


def test_without_training_there_is_no_peak(allocator):
    hook = peak_memory.PeakMemoryHook()
    hook.after_train(None)
    assert hook.peak_bytes is None
