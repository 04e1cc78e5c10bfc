"""What is not finite in one head stays there, in the kernels too."""

import math

import pytest
import torch

from support.operator_cases import DEVICE, NAMES, make_inputs, on_device, with_gradients

pytest.importorskip('triton')


# The interpreter takes long for all of them.
NUMBERS = [('value', math.nan), ('query', math.nan), ('key', math.inf)]


@pytest.mark.parametrize(('name', 'number'), NUMBERS if DEVICE == 'cuda' else NUMBERS[:1])
@pytest.mark.parametrize('case', ['two_experts', 'usual'] if DEVICE == 'cuda' else ['two_experts'])
def test_other_images_and_heads_do_not_notice(case, name, number):
    tensors, arguments = make_inputs(case, torch.float32)
    results = []
    for poison in (0.0, number):
        copies = [tensor.detach().clone() for tensor in tensors]
        copies[NAMES.index(name) - 1][0, 0, ::3, 0] = poison
        results.append(with_gradients(on_device(copies), **arguments, backend='triton'))
    for name, expected, result in zip(NAMES, *results, strict=True):
        assert torch.equal(result[1:], expected[1:]), f'{name} of another image'
        assert torch.equal(result[0, 1:], expected[0, 1:]), f'{name} of another head'
