"""torch.func and gradients of gradients."""

import pytest
import torch
from torch.func import grad, jacrev, jvp, vmap

from mita_seg.ops import mita_attention, pooled_mita_attention
from mita_seg.ops.attention import torch_backend
from support.operator_cases import make_inputs

# vmap takes some operations on indices one by one, or copies them.
pytestmark = [
    pytest.mark.filterwarnings(f'ignore:{words}')
    for words in ('There is a performance drop', 'torch.searchsorted')
]

CASES = ['usual', 'two_experts', 'route_only', 'compress_only']
ALL = (0, 1, 2, 3)


def prepare(case, backend):
    """-> query, key, value, landmarks, and the operator on them"""
    tensors, arguments = make_inputs(case, requires_grad=False)

    def attend(*tensors):
        return mita_attention(*tensors, **arguments, backend=backend)

    return tensors, attend


def loss_of(attend):
    return lambda *tensors: attend(*tensors).square().sum()


def stack(tensors):
    """Three variants of each tensor."""
    return [torch.stack((tensor, tensor.flip(2), 2 * tensor)) for tensor in tensors]


TRANSFORMS = {
    'grad': lambda attend, tensors: grad(loss_of(attend), ALL)(*tensors),
    'vmap': lambda attend, tensors: vmap(attend)(*stack(tensors)),
    'vmap of one': lambda attend, tensors: vmap(attend, (None, 0, None, None))(
        tensors[0], stack(tensors)[1], *tensors[2:]
    ),
    'vmap of grad': lambda attend, tensors: vmap(grad(loss_of(attend), ALL))(*stack(tensors)),
    'jacrev': lambda attend, tensors: jacrev(
        lambda value: attend(*tensors[:2], value, tensors[3]).sum((0, 1, 3))
    )(tensors[2]),
    'jvp': lambda attend, tensors: jvp(attend, tensors, tuple(t.flip(2) for t in tensors)),
    'jvp of grad': lambda attend, tensors: jvp(
        grad(loss_of(attend), ALL), tensors, tuple(t.flip(2) for t in tensors)
    ),
    'grad of grad': lambda attend, tensors: grad(
        lambda *tensors: sum(g.square().sum() for g in grad(loss_of(attend), ALL)(*tensors)), ALL
    )(*tensors),
}


@pytest.mark.parametrize('backend', ['tiled', 'auto'])
@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('transform', TRANSFORMS)
def test_tiled_follows_the_reference(transform, case, backend):
    results = []
    for name in ('reference', backend):
        tensors, attend = prepare(case, name)
        results.append(TRANSFORMS[transform](attend, tensors))
    torch.testing.assert_close(*results, atol=1e-10, rtol=0)


@pytest.mark.parametrize('case', CASES)
def test_gradients_of_gradients(case):
    results = []
    for backend in ('reference', 'tiled'):
        tensors, attend = prepare(case, backend)
        tensors = [tensor.requires_grad_() for tensor in tensors]
        wanted = tensors[: 3 if case == 'route_only' else 4]
        loss = loss_of(attend)(*tensors)
        firsts = torch.autograd.grad(loss, wanted, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in firsts), wanted))
    torch.testing.assert_close(*results, atol=1e-10, rtol=0)


def test_vmap_of_the_pooled_operator():
    tokens = torch.randn(2, 3, 1, 2, 12, 16)

    def attend(tokens):
        return pooled_mita_attention(*tokens, (3, 4), (2, 2), topk=3)

    expected = torch.stack([attend(each) for each in tokens])
    torch.testing.assert_close(vmap(attend)(tokens), expected)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('transform', ['grad', 'vmap', 'vmap of one', 'vmap of grad', 'jacrev'])
def test_masked_follows_the_reference(transform, case):
    results = []
    for name in ('reference', 'masked'):
        tensors, attend = prepare(case, name)
        results.append(TRANSFORMS[transform](attend, tensors))
    torch.testing.assert_close(*results, atol=1e-10, rtol=0)


@pytest.mark.parametrize('transform', ['jvp', 'jvp of grad'])
def test_masked_names_what_has_derivatives_in_forward_mode(transform):
    tensors, attend = prepare('usual', 'masked')
    with pytest.raises(NotImplementedError, match="forward mode, 'tiled' has"):
        TRANSFORMS[transform](attend, tensors)


@pytest.mark.parametrize('case', CASES)
def test_masked_names_what_has_gradients_of_gradients(case):
    tensors, attend = prepare(case, 'masked')
    with pytest.raises(NotImplementedError, match="no gradients of gradients, 'tiled' has"):
        TRANSFORMS['grad of grad'](attend, tensors)
    tensors = [tensor.requires_grad_() for tensor in tensors]
    (first,) = torch.autograd.grad(loss_of(attend)(*tensors), tensors[1], create_graph=True)
    with pytest.raises(NotImplementedError, match="no gradients of gradients, 'tiled' has"):
        torch.autograd.grad(first.square().sum(), tensors[1])


def test_off_the_cpu_auto_takes_tiled_in_transforms():
    tokens = torch.empty(1, 1, 4, 16, device='meta')
    chosen = []
    vmap(lambda _: chosen.append(torch_backend(tokens)) or _)(torch.zeros(1))
    assert chosen == ['tiled'] and torch_backend(tokens) == 'masked'
