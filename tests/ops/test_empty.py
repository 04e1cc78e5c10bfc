"""No images, or no heads: an empty result with gradients, as of scaled_dot_product_attention."""

import pytest
import torch

from mita_seg.ops import (
    mita_attention,
    pool_landmarks,
    pooled_mita_attention,
    route_queries,
    select_experts,
)
from mita_seg.ops.attention import BACKENDS
from mita_seg.ops.options import MiTAOptions
from support.operator_cases import DEVICE

EMPTY = [(0, 2), (3, 0), (0, 0)]


@pytest.mark.parametrize('shape', EMPTY)
@pytest.mark.parametrize('backend', ['auto', 'reference', 'tiled', 'masked', 'triton'])
@pytest.mark.parametrize(
    'options', [{}, {'num_routed': 2}, {'topk': 0}, {'shared': False}], ids=str
)
def test_nothing_in_gives_nothing_out(shape, backend, options):
    if backend == 'triton':
        pytest.importorskip('triton')
    *tensors, landmarks = (
        torch.randn(*shape, n, 16, device=DEVICE, requires_grad=True) for n in (12, 12, 12, 4)
    )
    options = {'topk': 3, 'backend': backend, **options}
    for output in (
        mita_attention(*tensors, landmarks, **options),
        pooled_mita_attention(*tensors, (3, 4), (2, 2), **options),
    ):
        assert output.shape == tensors[0].shape
        output.sum().backward()
        assert all(tensor.grad.shape == tensor.shape for tensor in (*tensors, landmarks))


@pytest.mark.parametrize('shape', EMPTY)
# Not 'masked': scaled_dot_product_attention of torch 2.11 crashes on nothing under a mask.
@pytest.mark.parametrize('backend', ['reference', 'tiled'])
def test_the_backends_themselves_take_nothing(shape, backend):
    *tensors, landmarks = (torch.randn(*shape, n, 16) for n in (12, 12, 12, 4))
    options = MiTAOptions(3, 1, 0.25, 0.25, shared=True)
    output = BACKENDS[backend].run(*tensors, landmarks, options)
    assert output.shape == tensors[0].shape


@pytest.mark.parametrize('shape', EMPTY)
def test_pooling_and_choices(shape):
    query = torch.randn(*shape, 12, 16, requires_grad=True)
    landmarks = pool_landmarks(query, (3, 4), (2, 2))
    assert landmarks.shape == (*shape, 4, 16)
    landmarks.sum().backward()
    assert query.grad.shape == query.shape
    assert select_experts(query, landmarks, 5).shape == (*shape, 4, 5)
    assert route_queries(query, landmarks, 2).shape == (*shape, 12, 2)


@pytest.mark.parametrize('name', ['query', 'key', 'value', 'landmarks'])
@pytest.mark.parametrize(('dimension', 'what'), [(2, 'rows'), (3, 'columns')])
def test_no_tokens_landmarks_or_channels_are_refused(name, dimension, what):
    tensors = {name: torch.randn(1, 2, 12, 16) for name in ('query', 'key', 'value', 'landmarks')}
    tensors[name] = tensors[name].narrow(dimension, 0, 0)
    with pytest.raises(ValueError, match=f'{name} must have no empty dimension but B and H, got'):
        mita_attention(**tensors, topk=3)
