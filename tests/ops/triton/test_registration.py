"""The operators as PyTorch sees them: schema, fake tensors, autograd, AOT dispatch."""

import pytest
import torch
from torch import library

from support.operator_cases import DEVICE, draw_inputs, on_device

pytest.importorskip('triton')

from mita_seg.ops.triton import op

GRID = (3, 4, 2, 2, 1)  # map, landmarks and first token
OPTIONS = {
    'usual': (5, 1, 0.25, 0.2, True),
    'two_experts': (5, 2, 0.25, 0.2, True),
    'compress_only': (0, 1, 0.25, 0.2, True),
    'route_only': (5, 1, 0.25, 0.2, False),
}
# Landmarks given and pooled; the interpreter takes long for all of them.
CASES = [(options, pooled) for options in OPTIONS for pooled in (False, True)]
if DEVICE == 'cpu':
    CASES = CASES[1:3] + CASES[4::3]


def make_arguments(options, pooled):
    query, key, value, landmarks = draw_inputs(14, 4)
    if pooled:
        return query, key, value, None, *GRID, *OPTIONS[options]
    return query, key, value, landmarks, *[0] * 5, *OPTIONS[options]


# Memory is filled, as the bytes of the state that no kernel writes are compared too.
@pytest.mark.parametrize(('options', 'pooled'), CASES)
def test_attention(options, pooled):
    library.opcheck(op.triton_attention, make_arguments(options, pooled))


@pytest.mark.parametrize(('options', 'pooled'), CASES)
def test_attention_backward(options, pooled):
    """Without gradients of its own, which test_transforms.py compares."""
    tensors = [
        each.detach() if torch.is_tensor(each) else each for each in make_arguments(options, pooled)
    ]
    out, state = op.triton_attention(*tensors)
    arguments = torch.randn_like(out), *tensors[:4], out, state, *tensors[4:]
    library.opcheck(op.triton_attention_backward, arguments)


def test_pooling():
    (query,) = on_device([torch.randn(2, 2, 14, 16)])
    library.opcheck(op.triton_pool, (query, *GRID))
    grad = torch.randn(2, 2, 4, 16, device=DEVICE)
    library.opcheck(op.triton_pool_backward, (grad, 14, *GRID))
