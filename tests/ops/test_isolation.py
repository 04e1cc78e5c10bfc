"""What is not finite in one head of one image stays there."""

import math

import pytest
import torch

from mita_seg.ops import pooled_mita_attention
from support.operator_cases import NAMES, gradients, make_inputs, with_gradients

BACKENDS = ['reference', 'tiled', 'masked']


def poison(tensors, name, number):
    """Copies of the tensors, with the number in some rows of the first head of the first image."""
    tensors = [tensor.detach().clone() for tensor in tensors]
    tensors[NAMES.index(name) - 1][0, 0, ::3, 0] = number
    return [tensor.requires_grad_() for tensor in tensors]


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', NAMES[1:])
@pytest.mark.parametrize('number', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('case', ['usual', 'two_experts', 'route_only', 'compress_only'])
def test_other_images_and_heads_do_not_notice(backend, name, number, case):
    tensors, arguments = make_inputs(case, torch.float32)
    tensors = [torch.cat((tensor, tensor.flip(0))) for tensor in tensors]  # two images at least
    results = [
        with_gradients(poison(tensors, name, x), **arguments, backend=backend) for x in (0, number)
    ]
    assert not torch.equal(*(output[0, 0] for output, *_ in results))
    for name, expected, result in zip(NAMES, *results, strict=True):
        if expected is not None:
            assert torch.equal(result[1:], expected[1:]), f'{name} of another image'
            assert torch.equal(result[0, 1:], expected[0, 1:]), f'{name} of another head'


@pytest.mark.parametrize('backend', BACKENDS)
def test_a_loss_that_does_not_look_at_an_image_has_no_gradient_from_it(backend):
    tensors = torch.randn(3, 3, 2, 64, 16)
    tensors[0, 0, 0, 0, 0] = math.nan
    tensors = [tensor.requires_grad_() for tensor in tensors.unbind()]
    output = pooled_mita_attention(*tensors, (8, 8), (3, 3), topk=9, backend=backend)
    for grad in gradients(output[1:], tensors):
        assert grad[1:].isfinite().all()
