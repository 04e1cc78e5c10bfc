"""Where offsets within a head need 64 bits: who decides, and that the kernels then agree."""

import pytest
import torch

from mita_seg.ops import mita_attention
from support.kernel_cases import OPTIONS, assert_kernels_agree
from support.operator_cases import DEVICE, draw_inputs, relative_error

pytest.importorskip('triton')

from mita_seg.kernel_check.launches import DryPlan
from mita_seg.ops.options import MiTAOptions, Pooling
from mita_seg.ops.reference import reference_attention
from mita_seg.ops.triton import backward, forward
from mita_seg.ops.triton import call_plan as plan
from mita_seg.ops.triton.gpu import ARCHITECTURES
from mita_seg.ops.triton.launch import is_wide


def launches_of(
    query, key, value, num_routed=1, shared=True, remainder=False, topk=4, grid=(1024, 1024)
):
    """Of a call each way with 16 landmarks, pooled."""
    pooling = Pooling(*grid, 4, 4, 0)
    options = MiTAOptions(topk, num_routed, 0.1, 0.1, shared, 0.0, remainder, pooling)
    plan = DryPlan(ARCHITECTURES[90])
    forward.mita_forward(plan, query, key, value, None, options)
    out, state = plan.results
    backward.mita_backward(plan, out, query, key, value, None, out, state, options)
    return plan.launches


def on_meta(shape, strides):
    return torch.empty(1, dtype=torch.bfloat16, device='meta').as_strided(shape, strides)


@pytest.mark.parametrize(('tokens', 'stride', 'wide'), [(2**20, 64, False), (2**20, 3072, True)])
def test_when_offsets_need_64_bits(tokens, stride, wide):
    assert is_wide(on_meta((1, 1, tokens, 64), (0, 0, stride, 1))) == wide


@pytest.mark.parametrize('options', OPTIONS)
@pytest.mark.parametrize('heads', [3, 64])
@pytest.mark.parametrize('expanded', [0, 1, 2])
def test_no_kernel_gets_a_wide_tensor_without_knowing(expanded, heads, options):
    """Results may be wide where arguments are not: of one head, expanded, all heads are written."""
    tensors = [on_meta((1, heads, 2**20, 64), (0, 2**26, 64, 1)) for _ in range(3)]
    tensors[expanded] = on_meta((1, heads, 2**20, 64), (0, 0, 64, 1))
    launches = launches_of(*tensors, **options)
    assert len(launches) > 5
    knowing = 0
    for launch in launches:
        given = [arg for arg in launch.args if torch.is_tensor(arg)]
        wide = any(is_wide(tensor) for tensor in given if tensor.ndim == 4)
        if wide:
            assert launch.options['WIDE'], launch.kernel
            knowing += 1
    assert bool(knowing) == (heads == 64)


def test_kernels_agree_with_64_bit_offsets(monkeypatch):
    monkeypatch.setattr(forward, 'is_wide', lambda tensor: True)
    monkeypatch.setattr(backward, 'is_wide', lambda tensor: True)
    monkeypatch.setattr(plan, '_recordings', plan.Latest())
    assert_kernels_agree(draw_inputs(90, 7, heads=2), topk=5)


@pytest.mark.skipif(DEVICE == 'cpu', reason='needs a GPU')
def test_rows_of_many_experts_a_query_pass_2_to_the_31():
    """N s d = 2^31: the parts of the output, one per expert, need 64 bits though no input does."""
    tokens, experts, dim = 2**20, 16, 128
    query, key, value, landmarks = (
        torch.randn(1, 1, rows, dim, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
        for rows in (tokens, tokens, tokens, experts)
    )
    options = {'topk': 8, 'num_routed': experts}
    output = mita_attention(query, key, value, landmarks, **options, backend='triton')
    (grad,) = torch.autograd.grad(output, query, torch.ones_like(output))
    sample = torch.cat([torch.arange(64), tokens - 1 - torch.arange(64)]).to(DEVICE)
    some = query.detach()[:, :, sample].double().requires_grad_()
    others = [tensor.detach().double() for tensor in (key, value, landmarks)]
    scales = {'scale': dim**-0.5, 'landmark_scale': dim**-0.5}
    filled_in = MiTAOptions(**options, **scales, shared=True)
    expected = reference_attention(some, *others, filled_in)
    (wanted,) = torch.autograd.grad(expected, some, torch.ones_like(expected))
    assert relative_error(output[:, :, sample], expected) < 0.02
    assert relative_error(grad[:, :, sample], wanted) < 0.05
