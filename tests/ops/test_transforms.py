"""torch.func and gradients of gradients."""

import pytest
import torch
from operator_cases import make_inputs
from torch.func import grad, jvp, vmap

from mita_seg.ops import mita_attention, pooled_mita_attention

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
def test_masked_has_grad(case):
    results = []
    for backend in ('reference', 'masked'):
        tensors, attend = prepare(case, backend)
        results.append(grad(loss_of(attend), ALL)(*tensors))
    torch.testing.assert_close(*results, atol=1e-10, rtol=0)


@pytest.mark.parametrize('transform', ['vmap', 'jvp'])
def test_masked_names_what_can_run_in_other_transforms(transform):
    tensors, attend = prepare('route_only', 'masked')
    with pytest.raises(NotImplementedError, match=f"can't run in torch.func.{transform}, 'tiled'"):
        TRANSFORMS[transform](attend, tensors)
