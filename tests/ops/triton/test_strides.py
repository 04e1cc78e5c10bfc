"""Strided inputs go into the kernels as they are: nothing is copied."""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mita_seg.ops import mita_attention, pooled_mita_attention
from support.operator_cases import DEVICE, NAMES, relative_error

plans = pytest.importorskip('mita_seg.ops.triton.call_plan', exc_type=ImportError)

# Of these, one at least is behind whatever moves the elements of a tensor.
COPIES = {
    'clone', 'copy_', '_to_copy', 'contiguous', 'cat', 'stack', 'index', 'index_select', 'gather',
    '_reshape_copy', 'add', 'mul', 'empty_like', 'expand_copy', 'view_copy', 'permute_copy',
}  # fmt: skip


class NoCopies(TorchDispatchMode):
    """Refuses copies but in launches: the interpreter may make its own."""

    def __init__(self):
        super().__init__()
        self.launching = False
        self.seen = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split('.')[0]
        assert self.launching or name not in COPIES, function
        self.seen += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def no_copies(monkeypatch):
    mode = NoCopies()
    launch = plans.Plan.launch

    def launch_freely(plan, *args, **options):
        mode.launching = True
        try:
            launch(plan, *args, **options)
        finally:
            mode.launching = False

    monkeypatch.setattr(plans.Plan, 'launch', launch_freely)
    monkeypatch.setattr(plans, '_recordings', plans.Latest())
    return mode


def draw_views(layout, tokens=31, heads=2, dim=16):
    """query, key, value [B, H, N, d] that are views of memory in another order."""
    if layout == 'packed':
        views = torch.randn(1, tokens, 3, heads, dim).permute(2, 0, 3, 1, 4).unbind()
    elif layout == 'tokens first':
        views = [torch.randn(1, tokens, heads, dim).transpose(1, 2) for _ in range(3)]
    elif layout == 'channels first':  # of a feature map, whose rows lie apart
        views = [torch.randn(1, heads, dim, tokens).mT for _ in range(3)]
    else:  # every other token
        views = [torch.randn(1, heads, 2 * tokens, dim)[:, :, ::2] for _ in range(3)]
    views = [
        torch.empty_strided(view.shape, view.stride(), device=DEVICE).copy_(view) for view in views
    ]
    assert not any(view.is_contiguous() for view in views)
    return [view.detach().requires_grad_() for view in views]


@pytest.mark.parametrize('pooled', [False, True])
@pytest.mark.parametrize('layout', ['packed', 'tokens first', 'channels first', 'steps'])
def test_views_are_not_copied(layout, pooled, no_copies):
    tensors = draw_views(layout)
    if pooled:
        attend = partial(pooled_mita_attention, grid=(5, 6), num_landmarks=(2, 2), start=1, topk=5)
    else:
        marks = torch.randn(1, 2, 16, 4, device=DEVICE).mT.requires_grad_()
        tensors.append(marks)
        attend = partial(mita_attention, topk=5)
    expected = attend(*tensors, backend='reference')
    # A gradient in another order than the inputs', as that of a transposed output is.
    weights = torch.randn(expected.transpose(1, 2).shape, device=DEVICE).transpose(1, 2)
    wanted = (expected, *torch.autograd.grad(expected, tensors, weights))
    with no_copies:
        output = attend(*tensors, backend='triton')
        results = (output, *torch.autograd.grad(output, tensors, weights))
    assert no_copies.seen
    for name, result, right in zip(NAMES, results, wanted, strict=False):
        assert relative_error(result, right) < 1e-5, name
