"""The kernels of the remainder."""

import pytest
import torch
from torch.func import grad, vmap

from support.kernel_cases import assert_kernels_agree
from support.operator_cases import DEVICE, NAMES, draw_inputs, on_device, with_gradients

pytest.importorskip('triton')

from mita_seg.ops import mita_attention, pooled_mita_attention

OPTIONS = {'shared': False, 'remainder': True}


@pytest.mark.parametrize(
    ('tokens', 'landmarks', 'topk'),
    [
        (30, 4, 5),
        (64, 3, 16),  # whole blocks
        (20, 4, 19),  # one key is left
        (20, 1, 1),
        (5, 12, 3),
        (150, 4, 140),  # keys block by block
        (150, 70, 30),  # landmarks block by block
    ],
)
def test_kernels_agree(tokens, landmarks, topk):
    tensors = draw_inputs(tokens, landmarks, heads=2)
    assert_kernels_agree(tensors, topk=topk, **OPTIONS)


@pytest.mark.parametrize('scale', [0.05, 1.5])
def test_scale(scale):
    assert_kernels_agree(draw_inputs(30, 4), topk=5, scale=scale, **OPTIONS)


def test_float16():
    tensors = draw_inputs(30, 4, dtype=torch.float16)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = with_gradients(exact, topk=5, **OPTIONS, backend='reference')
    results = with_gradients(tensors, topk=5, **OPTIONS, backend='triton')
    for name, result, wanted in zip(NAMES, results, expected, strict=True):
        assert result.dtype == torch.float16
        assert (result - wanted).norm() / wanted.norm() < 4e-3, name


@pytest.mark.parametrize('topk', [14, 20])
def test_with_all_keys_nothing_remains(topk):
    tensors = draw_inputs(14, 4)
    route_only = mita_attention(*tensors, topk=topk, shared=False, backend='triton')
    output = mita_attention(*tensors, topk=topk, **OPTIONS, backend='triton')
    assert torch.equal(output, route_only)


def test_pooled():
    *tensors, _ = draw_inputs(14, 4)
    results = [
        with_gradients(
            tensors,
            lambda *x, backend=backend: pooled_mita_attention(
                *x, (3, 4), (2, 2), start=1, topk=5, **OPTIONS, backend=backend
            ),
        )
        for backend in ('reference', 'triton')
    ]
    for wanted, result in zip(*results, strict=True):
        torch.testing.assert_close(result, wanted, atol=1e-5, rtol=1e-4)


def test_gradients_of_gradients():
    tensors = [tensor.detach() for tensor in draw_inputs(14, 4, scale=0.5)]
    found = []
    for backend in ('reference', 'triton'):

        def attend(*tensors, backend=backend):
            return mita_attention(*tensors, topk=5, **OPTIONS, backend=backend)

        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        first = torch.autograd.grad(attend(*inputs).square().sum(), inputs, create_graph=True)
        loss = sum(each.square().sum() for each in first)
        found.append((*first, *torch.autograd.grad(loss, inputs)))
    for wanted, result in zip(*found, strict=True):
        torch.testing.assert_close(result, wanted, atol=1e-4, rtol=1e-4)


def test_transforms():
    tensors = tuple(tensor.detach() for tensor in draw_inputs(14, 4))
    more = tuple(torch.stack((each, each.flip(2))) for each in tensors)
    found = []
    for backend in ('reference', 'triton'):

        def attend(*tensors, backend=backend):
            return mita_attention(*tensors, topk=5, **OPTIONS, backend=backend)

        found.append((
            *grad(lambda *x, attend=attend: attend(*x).square().sum(), (0, 1, 2, 3))(*tensors),
            vmap(attend)(*more),
        ))  # fmt: skip
    for wanted, result in zip(*found, strict=True):
        torch.testing.assert_close(result, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('dynamic', [False, True])
def test_compiled(dynamic):
    compiled = torch.compile(mita_attention, fullgraph=True, backend='aot_eager', dynamic=dynamic)
    for tokens in (14, 20):
        tensors = draw_inputs(tokens, 4)
        expected = with_gradients(tensors, topk=5, **OPTIONS, backend='triton')
        results = with_gradients(tensors, compiled, topk=5, **OPTIONS, backend='triton')
        for result, wanted in zip(results, expected, strict=True):
            torch.testing.assert_close(result, wanted)


def test_without_gradients():
    tensors = draw_inputs(14, 4)
    expected = mita_attention(*tensors, topk=5, **OPTIONS, backend='triton')
    with torch.no_grad():
        output = mita_attention(*tensors, topk=5, **OPTIONS, backend='triton')
    assert torch.equal(output, expected) and not output.requires_grad


def test_other_heads_do_not_notice():
    results = []
    for number in (0.0, float('nan')):
        copies = [tensor.detach().clone() for tensor in draw_inputs(20, 4, heads=2)]
        copies[1][0, 0, 3, 0] = number
        results.append(with_gradients(on_device(copies), topk=5, **OPTIONS, backend='triton'))
    for expected, result in zip(*results, strict=True):
        assert torch.equal(result[0, 1], expected[0, 1])
    assert DEVICE == 'cuda' or results[1][0][0, 0].isnan().any()
