"""Recorded calls: on kernels that copy bytes, which need no GPU, and on the operator's."""

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from mita_seg.ops import latest, mita_attention, pooled_mita_attention
from support.kernel_cases import OPTIONS
from support.operator_cases import DEVICE, draw_inputs, gradients

pytest.importorskip('triton')

from mita_seg.ops.triton import call_plan as plans


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
    monkeypatch.setattr(plans, '_recordings', plans.Latest())
    monkeypatch.setattr(plans.triton, '__version__', '3.6.0')
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
        (out,) = plans.call(swap_halves, (first, second.clone()), kernel)
        assert out.tolist() == [start + 2, start + 3, start + 4, start + 5]
    assert kernel.launches == ['inspected'] * 4 + ['repeated'] * 8


class EmptyPlan:
    """A plan of a call that launches nothing and returns its options."""

    def __init__(self, tensors):
        self.tensors, self.results = tensors, []

    def recording(self):
        return SimpleNamespace(repeat=lambda tensors: self.results)


def test_threads_record_and_forget_side_by_side(monkeypatch):
    monkeypatch.setattr(plans, '_recordings', plans.Latest())
    monkeypatch.setattr(latest, '_MOST', 4)
    monkeypatch.setattr(plans, 'Plan', EmptyPlan)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    tensor = torch.zeros(1)

    def body(plan, *given):
        plan.results.append(given[-1])

    def serve(first):
        for number in range(first, first + 4000):
            options = 7 * number % 13
            assert plans.call(body, (tensor,), options) == [options]

    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(serve, range(8)))
    finally:
        sys.setswitchinterval(before)
    assert len(plans._recordings) == 4


def test_tensor_given_twice_may_be_two_the_next_time(kernel):
    same, other = torch.arange(4.0), torch.arange(10.0, 14.0)
    plans.call(swap_halves, (same, same), kernel)
    (out,) = plans.call(swap_halves, (same, other), kernel)
    assert out.tolist() == [2, 3, 10, 11]


class ClearKernel(CopyKernel):
    """Sets `count` bytes of one tensor to 0."""

    arg_names = ('p_target', 'count', 'BLOCK')

    def __getitem__(self, grid):
        def launch(target, count, BLOCK):
            self.launches.append('inspected')
            ctypes.memset(target.data_ptr(), 0, count)
            return self

        return launch

    def run(self, x, y, z, stream, function, metadata, _1, _2, _3, target, count, block):
        self.launches.append('repeated')
        ctypes.memset(target, 0, count)


def test_a_launch_may_take_a_single_tensor(kernel):
    def body(plan, tensor, kernel):
        plan.launch(kernel, (3,), tensor[1:], 8, BLOCK=16)

    kernel = ClearKernel()
    for _ in range(2):
        tensor = torch.ones(4)
        plans.call(body, (tensor,), kernel)
        assert tensor.tolist() == [1, 0, 0, 1]
    assert kernel.launches == ['inspected', 'repeated']


@pytest.mark.parametrize('change', ['strides', 'alignment', 'options'])
def test_another_signature_is_recorded_anew(kernel, change):
    tensor, option = torch.arange(16.0), kernel
    plans.call(swap_halves, (tensor[:4], tensor[8:12]), kernel)
    before = len(kernel.launches)
    if change == 'strides':
        tensors = tensor[:4], tensor[8:].view(4, 2)[:, 0]
    elif change == 'alignment':
        tensors = tensor[:4], tensor[9:13]
    else:
        tensors, option = (tensor[:4], tensor[8:12]), CopyKernel()
    plans.call(swap_halves, tensors, option)
    assert (kernel.launches[before:] + option.launches)[-4:] == ['inspected'] * 4


def test_who_watches_launches_sees_all_of_them(kernel, monkeypatch):
    tensors = torch.arange(4.0), torch.arange(4.0)
    plans.call(swap_halves, tensors, kernel)
    monkeypatch.setattr(plans, '_watched', lambda: True)
    plans.call(swap_halves, tensors, kernel)
    assert kernel.launches == ['inspected'] * 8


def test_interpreted_kernels_are_not_recorded(kernel):
    class Interpreted(CopyKernel):
        def __getitem__(self, grid):
            launch = super().__getitem__(grid)
            return lambda *args, **options: launch(*args, **options) and None

    kernel = Interpreted()
    tensors = torch.arange(4.0), torch.arange(4.0)
    for _ in range(2):
        plans.call(swap_halves, tensors, kernel)
    assert kernel.launches == ['inspected'] * 8
    assert not plans._recordings


def test_memory_that_the_plan_does_not_know_is_refused(kernel):
    def body(plan, tensor, _):
        plan.launch(kernel, (3,), tensor, torch.empty(4), 8, BLOCK=16)

    with pytest.raises(AssertionError, match='does not know'):
        plans.call(body, (torch.arange(4.0),), None)


@pytest.mark.parametrize(
    ('version', 'known'),
    [
        ('3.6.0', True),
        ('3.7.1', True),
        ('3.7.0+git1234', True),
        ('3.5.1', False),
        ('3.60.0', False),
    ],
)
def test_only_launchers_that_were_tried_are_called(version, known, kernel, monkeypatch):
    monkeypatch.setattr(plans.triton, '__version__', version)
    for start in (0.0, 100.0):
        first, second = torch.arange(8).add(start).view(2, 4).unbind()
        (out,) = plans.call(swap_halves, (first, second), kernel)
        assert out.tolist() == [start + 2, start + 3, start + 4, start + 5]
    assert kernel.launches == ['inspected'] * 4 + ['repeated' if known else 'inspected'] * 4
    assert len(plans._recordings) == known


def test_at_the_limit_the_oldest_recording_goes(kernel, monkeypatch):
    monkeypatch.setattr(latest, '_MOST', 3)
    tensors = torch.arange(4.0), torch.arange(4.0)
    others = [CopyKernel() for _ in range(4)]
    for other in others:
        plans.call(swap_halves, tensors, other)
    assert len(plans._recordings) == 3
    for other in reversed(others):
        plans.call(swap_halves, tensors, other)
    repeated = [other.launches[4:] == ['repeated'] * 4 for other in others]
    assert repeated == [False, True, True, True]


@pytest.mark.skipif(DEVICE == 'cpu', reason='interpreted kernels are not recorded')
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
@pytest.mark.parametrize('options', [*OPTIONS, {'topk': 100}])
@pytest.mark.parametrize('pooled', [False, True])
def test_recorded_call_equals_a_direct_one(pooled, options, dtype, monkeypatch):
    """Of several calls of one signature, the first is direct and the others repeat it."""
    options = {'topk': 20, **options, 'backend': 'triton'}
    recordings = plans.Latest()
    monkeypatch.setattr(plans, '_recordings', recordings)

    def run(seed):
        tensors = draw_inputs(501, 9, 64, 2, 3, dtype, seed=seed)
        if pooled:
            tensors = tensors[:3]
            output = pooled_mita_attention(*tensors, (20, 25), (3, 3), start=1, **options)
        else:
            output = mita_attention(*tensors, **options)
        return output, *gradients(output, tensors)

    repeats = [run(seed) for seed in range(3)]
    assert len(recordings) == 2  # forward and backward
    for seed, repeat in enumerate(repeats):
        recordings.clear()
        for result, direct in zip(repeat, run(seed), strict=True):
            assert torch.equal(result, direct)
