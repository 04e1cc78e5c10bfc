"""The kernels under torch.func, and gradients of gradients."""

import pytest
import torch
from torch.autograd.functional import jacobian
from torch.func import grad, jacrev, jvp, vmap

from support.operator_cases import draw_inputs

pytest.importorskip('triton')

from mita_seg.ops import mita_attention, pooled_mita_attention
from mita_seg.ops.options import MiTAOptions, Pooling, to_scalars
from mita_seg.ops.pooling import pool_in_torch
from mita_seg.ops.triton import op

pytestmark = [
    pytest.mark.filterwarnings(f'ignore:{words}')
    for words in ('There is a performance drop', 'torch.searchsorted')
]

OPTIONS = {
    'usual': {'topk': 5},
    'two experts': {'topk': 5, 'num_routed': 2},
    'compress only': {'topk': 0},
    'route only': {'topk': 5, 'shared': False},
    'pooled': {'topk': 5, 'grid': (3, 4), 'num_landmarks': (2, 2), 'start': 1},
}


def prepare(options, backend):
    """-> tensors, the operator on them"""
    tensors = [tensor.detach() for tensor in draw_inputs(14, 4, scale=0.5)]
    if 'grid' in OPTIONS[options]:
        return tensors[:3], lambda *x: pooled_mita_attention(
            *x, backend=backend, **OPTIONS[options]
        )
    return tensors, lambda *x: mita_attention(*x, backend=backend, **OPTIONS[options])


def loss_of(attend):
    return lambda *tensors: attend(*tensors).square().sum()


def first(attend, tensors):
    return grad(loss_of(attend), tuple(range(len(tensors))))(*tensors)


def second(attend, tensors):
    """By autograd. Landmarks get no gradient in route-only."""
    tensors = [tensor.clone().requires_grad_() for tensor in tensors]
    gradients = torch.autograd.grad(loss_of(attend)(*tensors), tensors[:3], create_graph=True)
    return torch.autograd.grad(sum(each.square().sum() for each in gradients), tensors[:3])


def second_in_func(attend, tensors):
    return first(lambda *x: first(attend, x)[0], tensors)


def stack(tensors):
    return [torch.stack((tensor, 2 * tensor)) for tensor in tensors]


TRANSFORMS = {
    'grad': first,
    'vmap': lambda attend, tensors: vmap(attend)(*stack(tensors)),
    'vmap of keys': lambda attend, tensors: vmap(
        lambda key: attend(tensors[0], key, *tensors[2:]), 1
    )(torch.stack((tensors[1], 2 * tensors[1]), 1)),
    'vmap of grad': lambda attend, tensors: vmap(lambda *x: first(attend, x))(*stack(tensors)),
    'jacrev': lambda attend, tensors: jacrev(
        lambda query: attend(query, *tensors[1:]).sum((0, 1, 2))[:2]
    )(tensors[0]),
    'gradients of gradients': second,
    'grad of grad': second_in_func,
}
# The interpreter takes long for all of them.
CASES = [(transform, 'usual') for transform in TRANSFORMS]
CASES += [('vmap of grad', options) for options in ('two experts', 'pooled')]
CASES += [
    ('gradients of gradients', options) for options in ('compress only', 'route only', 'pooled')
]


@pytest.mark.slow
@pytest.mark.parametrize(('transform', 'options'), CASES)
def test_kernels_follow_the_reference(transform, options):
    results = []
    for backend in ('reference', 'triton'):
        attend, tensors = reversed(prepare(options, backend))
        results.append(TRANSFORMS[transform](attend, tensors))
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)


def test_gradients_of_gradients_of_the_registered_operators():
    """Which tensors of other types than torch's own go through."""
    given = draw_inputs(14, 4, scale=0.5)
    query, key = given[:2]
    scalars = to_scalars(MiTAOptions(5, 1, 0.25, 0.2, shared=True))
    pairs = [
        (op.triton_attention(*given, **scalars)[0], key),
        (mita_attention(*given, topk=5, landmark_scale=0.2, backend='reference'), key),
        (op.triton_pool(query, [3, 4, 2, 2, 1]), query),
        (pool_in_torch(query, Pooling(3, 4, 2, 2, 1)), query),
    ]
    results = []
    for output, tensor in pairs:
        (gradient,) = torch.autograd.grad(output.pow(3).sum(), tensor, create_graph=True)
        results.append(torch.autograd.grad(gradient.square().sum(), tensor)[0])
    torch.testing.assert_close(results[::2], results[1::2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('compiled', [False, True])
def test_derivatives_in_forward_mode_are_refused(compiled):
    """They would be zeros, without a word."""
    tensors, attend = prepare('usual', 'triton')
    if compiled:
        attend = torch.compile(attend, backend='eager')
    with pytest.raises(NotImplementedError, match="forward mode .*'tiled' has"):
        jvp(attend, tuple(tensors), tuple(tensors))


def test_batched_gradients_are_refused():
    tensors, attend = prepare('usual', 'triton')
    with pytest.raises(NotImplementedError, match='vectorize=True.*jacrev takes either'):
        jacobian(lambda query: attend(query, *tensors[1:]).sum(), tensors[0], vectorize=True)
