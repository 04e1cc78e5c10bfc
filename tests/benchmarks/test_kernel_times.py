from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks.kernels import KernelTime, subtract, sum_up, time_kernels


class FakeEvent:
    """A launch as the profiler tells of it."""

    def __init__(self, name, start, duration, device_type=DeviceType.CUDA):
        self.name, self.device_type = name, device_type
        self.time_range = SimpleNamespace(start=start, end=start + duration)


def test_launches_of_a_call_are_summed_and_the_median_call_counts():
    """Three calls of attend and twice fold, whose launches differ; one call was disturbed."""
    durations = {'attend': [5, 7, 90], 'fold': [1, 20, 2, 30, 300, 400]}
    events = [
        FakeEvent(name, offset + 1000 * call, duration)
        for offset, (name, launches) in zip((0, 500), durations.items(), strict=True)
        for call, duration in enumerate(launches)
    ]
    times = sum_up(reversed(events), 3)  # the profiler promises no order
    assert times == {'attend': KernelTime(1, 7), 'fold': KernelTime(2, 32)}


def test_what_runs_on_the_host_is_no_kernel():
    events = [FakeEvent('attend', 1, 5), FakeEvent('cudaLaunchKernel', 0, 3, DeviceType.CPU)]
    assert set(sum_up(events, 1)) == {'attend'}


def test_kernels_come_in_the_order_of_their_launches():
    events = [FakeEvent(name, start, 1) for start, name in enumerate('cabca')]
    assert list(sum_up(events, 1)) == ['c', 'a', 'b']


def test_a_kernel_that_not_every_call_launches_is_not_hidden():
    times = sum_up([FakeEvent('Memset (Device)', 0, 6)], 4)
    assert times == {'Memset (Device)': KernelTime(0.25, 1.5)}


def test_backward_is_what_the_forward_does_not_launch():
    forward = {'attend': KernelTime(1, 7), 'copy': KernelTime(1, 2)}
    both = {'copy': KernelTime(3, 8), 'attend': KernelTime(1, 7.5), 'fold': KernelTime(2, 9)}
    assert subtract(both, forward) == {'copy': KernelTime(2, 6), 'fold': KernelTime(2, 9)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_on_cuda_every_launch_is_seen():
    tensor = torch.zeros(2**24, device='cuda')
    times = time_kernels(lambda: tensor.add_(1).add_(1))
    (time,) = times.values()
    assert time.launches == 2
    assert 10 < time.microseconds < 10_000  # moves 2 * 128 MiB
