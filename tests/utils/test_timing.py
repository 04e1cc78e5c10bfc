import pytest
import torch

from mita_seg.utils import timing
from mita_seg.utils.timing import Timer, medians

CPU = torch.device('cpu')


class Scripted:
    """A timer that returns given durations and logs when it is asked."""

    def __init__(self, name, durations, log):
        self.name, self.durations, self.log = name, list(durations), log

    def sample(self):
        self.log.append(self.name)
        return self.durations.pop(0)


def test_timers_take_turns_and_one_slow_sample_does_not_count():
    log = []
    timers = {'a': Scripted('a', [1, 9, 2], log), 'b': Scripted('b', [5, 4, 3], log)}
    assert medians(timers, rounds=3) == {'a': 2, 'b': 4}
    assert log == ['a', 'b'] * 3


def test_slow_timers_give_fewer_samples_but_not_too_few():
    for limits, count in ({}, 3), ({'fewest': 5}, 5):
        log = []
        medians({'a': Scripted('a', [1] * 50, log)}, rounds=50, seconds=0, **limits)
        assert len(log) == count


def test_seconds_are_those_of_one_call(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, 'perf_counter', lambda: now[0])

    def work():
        now[0] += 0.5e-3

    timer = Timer(work, CPU)
    calls = now[0] / 0.5e-3
    assert timer.sample() == pytest.approx(0.5e-3)
    assert now[0] / 0.5e-3 - calls == pytest.approx(10)  # in a row


def test_calls_of_a_sample_and_before_the_first_can_be_chosen():
    calls = []
    timer = Timer(lambda: calls.append(1), 'cpu', calls=1, warm_up=2)
    assert len(calls) == 2
    assert timer.median(rounds=7) > 0
    assert len(calls) == 2 + 7


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_on_cuda_the_work_counts_and_not_the_launch():
    tensor = torch.zeros(2**26, device='cuda')
    seconds = Timer(lambda: tensor.add_(1), 'cuda').median(rounds=5)
    assert 2**29 / 8e12 < seconds < 2**29 / 1e11  # 512 MiB, at the rate of any GPU


def test_function_is_called_within_its_scope():
    seen = []
    timer = Timer(lambda: seen.append(torch.is_grad_enabled()), CPU, torch.no_grad)
    timer.sample()
    assert seen and not any(seen)
    assert torch.is_grad_enabled()
