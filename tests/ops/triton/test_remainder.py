"""The remainder beside the kernels of route-only attention."""

import pytest
import torch
from torch import library
from torch.autograd.functional import jacobian
from torch.func import grad, jvp, vmap

from support.kernel_cases import assert_kernels_agree, read_choice
from support.operator_cases import DEVICE, NAMES, draw_inputs, on_device, with_gradients

pytest.importorskip('triton')

from mita_seg.ops import attention, mita_attention, pooled_mita_attention
from mita_seg.ops.options import make_options, to_scalars
from mita_seg.ops.triton import remainder

OPTIONS = {'shared': False, 'remainder': True}


def options_of(tensors, topk=5):
    query, *_, landmarks = tensors
    return make_options(query.shape[2:], landmarks.shape[2], topk=topk, **OPTIONS)


@pytest.mark.parametrize(
    ('tokens', 'landmarks', 'topk'),
    [
        (30, 4, 5),
        (64, 3, 16),  # whole blocks
        (20, 4, 19),  # one key is left
        (20, 1, 1),
        (5, 12, 3),
        (150, 4, 140),  # keys block by block
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


def test_choices_are_those_of_the_kernels():
    tensors = draw_inputs(30, 4, batch=2, heads=2)
    _, _, experts, routes, _ = remainder.triton_routed_attention(
        *tensors, **to_scalars(options_of(tensors))
    )
    expected_experts, expected_routes = read_choice(tensors, 5, shared=False)
    assert torch.equal(experts, expected_experts)
    assert torch.equal(routes.long(), expected_routes.squeeze(-1))


def test_sums_and_their_gradients():
    tensors = draw_inputs(30, 4, heads=2)
    options = options_of(tensors)
    out, lse, experts, routes, _ = remainder.triton_routed_attention(
        *tensors, **to_scalars(options)
    )
    assert lse.dtype == torch.float64
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors[:3]]
    expected = remainder.attend_in_torch(*exact, experts, routes, torch.float64, options)
    torch.testing.assert_close(out.double(), expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lse, expected[1], atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(lse)
    found = torch.autograd.grad(lse, tensors[:3], weights)
    wanted = torch.autograd.grad(expected[1], exact, weights, materialize_grads=True)
    for result, gradient in zip(found, wanted, strict=True):
        torch.testing.assert_close(result.double(), gradient, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings('ignore:There is a performance drop')
def test_gradients_of_gradients_and_batched_ones():
    tensors = [tensor.detach() for tensor in draw_inputs(14, 4, scale=0.5)]
    found = []
    for backend in ('reference', 'triton'):

        def attend(*tensors, backend=backend):
            return mita_attention(*tensors, topk=5, **OPTIONS, backend=backend)

        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        first = torch.autograd.grad(attend(*inputs).square().sum(), inputs, create_graph=True)
        loss = sum(each.square().sum() for each in first)
        rows = jacobian(lambda *x: attend(*x)[0, 0, 3], tuple(tensors), vectorize=True)
        found.append((*first, *torch.autograd.grad(loss, inputs), *rows))
    for wanted, result in zip(*found, strict=True):
        torch.testing.assert_close(result, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('transform', ['grad', 'vmap', 'jvp'])
def test_transforms_are_refused(transform):
    tensors = tuple(tensor.detach() for tensor in draw_inputs(14, 4))

    def attend(*tensors, backend='triton'):
        return mita_attention(*tensors, topk=5, **OPTIONS, backend=backend)

    calls = {
        'grad': lambda attend: grad(lambda *x: attend(*x).sum())(*tensors),
        'vmap': lambda attend: vmap(attend)(*(each.unsqueeze(0) for each in tensors)),
        'jvp': lambda attend: jvp(attend, tensors, tensors),
    }
    with pytest.raises(NotImplementedError, match="can't run: .* backend='tiled' has"):
        calls[transform](attend)

    def automatic(*tensors):
        return attend(*tensors, backend='auto')

    calls[transform](automatic)


def test_where_a_kernel_cannot_be_launched(monkeypatch):
    """'auto' computes in torch operations; so does its backward pass."""
    tensors = draw_inputs(14, 4)
    expected = with_gradients(tensors, topk=5, **OPTIONS, backend='reference')

    def fail(*_):
        raise RuntimeError('Failed to find C compiler')

    def automatic(*tensors):
        return attention.BACKENDS['auto'].run(*tensors, options_of(tensors))

    outputs = [automatic(*tensors)]
    monkeypatch.setattr(remainder, 'call', fail)
    outputs.append(automatic(*tensors))
    weights = torch.ones_like(outputs[0])
    for output in outputs:
        torch.testing.assert_close(output, expected[0], atol=1e-5, rtol=1e-5)
    first, second = (torch.autograd.grad(output, tensors, weights) for output in outputs)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    with pytest.raises(RuntimeError, match='C compiler'):
        mita_attention(*tensors, topk=5, **OPTIONS, backend='triton')


@pytest.mark.slow
def test_the_operators_as_pytorch_sees_them():
    tensors = draw_inputs(14, 4)
    scalars = to_scalars(options_of(tensors))
    library.opcheck(remainder.triton_routed_attention, tensors, scalars)
    tensors = [tensor.detach() for tensor in tensors]
    out, lse, *_, state = remainder.triton_routed_attention(*tensors, **scalars)
    arguments = torch.randn_like(out), torch.randn_like(lse), *tensors, out, state
    library.opcheck(remainder.triton_routed_attention_backward, arguments, scalars)


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
