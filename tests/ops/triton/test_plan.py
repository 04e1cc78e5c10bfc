"""Recorded calls, on kernels that copy bytes: no GPU is needed."""

import ctypes
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip('triton')

from mita_seg.ops.triton import plan as plans


class CopyKernel:
    """Copies `count` bytes from one address to another, and counts its launches."""

    arg_names = ('p_source', 'p_target', 'count', 'BLOCK')
    function, packed_metadata = 'function', 'metadata'

    def __init__(self):
        self.launches = []  # how it was launched: 'inspected' or 'repeated'

    def __getitem__(self, grid):
        def launch(source, target, count, BLOCK):
            self.launches.append('inspected')
            ctypes.memmove(target.data_ptr(), source.data_ptr(), count)
            return self

        return launch

    def run(self, x, y, z, stream, function, metadata, _1, _2, _3, source, target, count, block):
        assert (x, y, z, stream, block) == (3, 1, 1, 7, 16)
        self.launches.append('repeated')
        ctypes.memmove(target, source, count)


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(plans, '_recordings', {})
    active = SimpleNamespace(get_current_stream=lambda device: 7)
    monkeypatch.setattr(plans, 'driver', SimpleNamespace(active=active))
    return CopyKernel()


def swap_halves(plan, first, second, kernel):
    """Two tensors [4] -> the second half of the first, then the first half of the second."""
    out = plan.result(torch.empty(4))
    passed_on, _ = plan.scratch(2, 2, dtype=torch.float32)
    kept = plan.scratch(2, dtype=torch.float32)

    def copy(source, target):
        plan.launch(kernel, (3,), source, target, 8, BLOCK=16)

    copy(first[2:], passed_on)
    copy(second, kept)
    copy(passed_on, out)
    copy(kept, out[2:])


def test_recorded_call_works_on_the_tensors_of_the_next_one(kernel):
    for start in (0.0, 100.0, 200.0):
        first, second = torch.arange(8).add(start).view(2, 4).unbind()
        (out,) = plans.call(swap_halves, (first, second.clone()), (kernel,))
        assert out.tolist() == [start + 2, start + 3, start + 4, start + 5]
    assert kernel.launches == ['inspected'] * 4 + ['repeated'] * 8


def test_tensor_given_twice_may_be_two_the_next_time(kernel):
    same, other = torch.arange(4.0), torch.arange(10.0, 14.0)
    plans.call(swap_halves, (same, same), (kernel,))
    (out,) = plans.call(swap_halves, (same, other), (kernel,))
    assert out.tolist() == [2, 3, 10, 11]


@pytest.mark.parametrize('change', ['strides', 'alignment', 'options'])
def test_another_signature_is_recorded_anew(kernel, change):
    tensor, option = torch.arange(16.0), kernel
    plans.call(swap_halves, (tensor[:4], tensor[8:12]), (kernel,))
    before = len(kernel.launches)
    if change == 'strides':
        tensors = tensor[:4], tensor[8:].view(4, 2)[:, 0]
    elif change == 'alignment':
        tensors = tensor[:4], tensor[9:13]
    else:
        tensors, option = (tensor[:4], tensor[8:12]), CopyKernel()
    plans.call(swap_halves, tensors, (option,))
    assert (kernel.launches[before:] + option.launches)[-4:] == ['inspected'] * 4


def test_who_watches_launches_sees_all_of_them(kernel, monkeypatch):
    tensors = torch.arange(4.0), torch.arange(4.0)
    plans.call(swap_halves, tensors, (kernel,))
    monkeypatch.setattr(plans, '_watched', lambda: True)
    plans.call(swap_halves, tensors, (kernel,))
    assert kernel.launches == ['inspected'] * 8


def test_interpreted_kernels_are_not_recorded(kernel):
    class Interpreted(CopyKernel):
        def __getitem__(self, grid):
            launch = super().__getitem__(grid)
            return lambda *args, **options: launch(*args, **options) and None

    kernel = Interpreted()
    tensors = torch.arange(4.0), torch.arange(4.0)
    for _ in range(2):
        plans.call(swap_halves, tensors, (kernel,))
    assert kernel.launches == ['inspected'] * 8
    assert not plans._recordings


def test_memory_that_the_plan_does_not_know_is_refused(kernel):
    def body(plan, tensor):
        plan.launch(kernel, (3,), tensor, torch.empty(4), 8, BLOCK=16)

    with pytest.raises(AssertionError, match='does not know'):
        plans.call(body, (torch.arange(4.0),), ())
