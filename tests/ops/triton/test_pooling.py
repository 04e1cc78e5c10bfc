"""Landmark pooling in kernels, alone and within the attention."""

import pytest
import torch

from mita_seg.ops import mita_attention, pool_landmarks, pooled_mita_attention
from support.operator_cases import DEVICE, gradients, on_device

pytest.importorskip('triton')


@pytest.mark.parametrize(
    ('grid', 'num_landmarks', 'start'),
    [((7, 11), (3, 4), 1), ((5, 3), (6, 6), 0), ((8, 8), (4, 4), 2), ((20, 3), (1, 2), 0)],
)
def test_pooling_equals_adaptive_average_pooling(grid, num_landmarks, start):
    from mita_seg.ops.triton.op import triton_pool

    shape = (2, 2, start + grid[0] * grid[1] + 1, 16)
    (query,) = on_device([torch.randn(shape)])
    expected = pool_landmarks(query.cpu(), grid, num_landmarks, start=start).to(DEVICE)
    landmarks = triton_pool(query, [*grid, *num_landmarks, start])
    torch.testing.assert_close(landmarks, expected)
    weights = torch.randn_like(landmarks)
    (wanted,) = torch.autograd.grad(expected, query, weights)
    (grad,) = torch.autograd.grad(landmarks, query, weights)
    torch.testing.assert_close(grad, wanted)


@pytest.mark.slow
@pytest.mark.parametrize('options', [{}, {'num_routed': 2}, {'topk': 0}, {'shared': False}])
def test_pooled_attention_equals_pooling_then_attention(options):
    tensors = on_device([torch.randn(2, 2, 37, 16) for _ in range(3)])
    options = {'topk': 6, **options, 'backend': 'triton'}
    output = pooled_mita_attention(*tensors, (7, 5), (3, 2), start=1, **options)
    landmarks = pool_landmarks(tensors[0], (7, 5), (3, 2), start=1)
    expected = mita_attention(*tensors, landmarks, **options)
    torch.testing.assert_close(output, expected)
    for grad, wanted in zip(gradients(output, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-5)
