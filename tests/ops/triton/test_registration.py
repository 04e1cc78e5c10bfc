"""The operators as PyTorch sees them: schema, fake tensors, autograd, AOT dispatch."""

import pytest
import torch
from torch import library

from support.operator_cases import DEVICE, draw_inputs, on_device

pytest.importorskip('triton')

from mita_seg.ops.options import MiTAOptions, Pooling, to_scalars
from mita_seg.ops.triton import op

pytestmark = pytest.mark.slow

POOLING = Pooling(3, 4, 2, 2, start=1)
OPTIONS = {
    'usual': MiTAOptions(5, 1, 0.25, 0.2, shared=True),
    'two_experts': MiTAOptions(5, 2, 0.25, 0.2, shared=True),
    'compress_only': MiTAOptions(0, 1, 0.25, 0.2, shared=True),
    'route_only': MiTAOptions(5, 1, 0.25, 0.2, shared=False),
}
# Landmarks given and pooled; the interpreter takes long for all of them.
CASES = [(options, pooled) for options in OPTIONS for pooled in (False, True)]
if DEVICE == 'cpu':
    CASES = CASES[1:3] + CASES[4::3]


def make_arguments(options, pooled):
    """Tensors, and numbers by name."""
    query, key, value, landmarks = draw_inputs(14, 4)
    if pooled:
        pooled_options = OPTIONS[options]._replace(pooling=POOLING)
        return (query, key, value, None), to_scalars(pooled_options)
    return (query, key, value, landmarks), to_scalars(OPTIONS[options])


# Memory is filled, as the bytes of the state that no kernel writes are compared too.
@pytest.mark.parametrize(('options', 'pooled'), CASES)
def test_attention(options, pooled):
    library.opcheck(op.triton_attention, *make_arguments(options, pooled))


@pytest.mark.parametrize(('options', 'pooled'), CASES)
def test_attention_backward(options, pooled):
    """Without gradients of its own, which test_transforms.py compares."""
    tensors, scalars = make_arguments(options, pooled)
    tensors = [tensor if tensor is None else tensor.detach() for tensor in tensors]
    out, state = op.triton_attention(*tensors, **scalars)
    arguments = torch.randn_like(out), *tensors, out, state
    library.opcheck(op.triton_attention_backward, arguments, scalars)


@pytest.mark.parametrize('steps', [0, 2])
@pytest.mark.parametrize('tokens_outermost', [False, True])
def test_clustering(tokens_outermost, steps):
    query, _, _, landmarks = draw_inputs(14, 4, batch=2, heads=2)
    query = query.detach()
    if tokens_outermost:
        query = query.transpose(1, 2).contiguous().transpose(1, 2)
    query.requires_grad_(steps > 0)
    library.opcheck(op.triton_cluster, (query, landmarks, steps))
    out, *state = op.triton_cluster(query.detach(), landmarks.detach(), steps)
    arguments = torch.randn_like(out), query.detach(), *state
    library.opcheck(op.triton_cluster_backward, arguments)


def test_pooling():
    (query,) = on_device([torch.randn(2, 2, 14, 16)])
    library.opcheck(op.triton_pool, (query, list(POOLING)))
    grad = torch.randn(2, 2, 4, 16, device=DEVICE)
    library.opcheck(op.triton_pool_backward, (grad, 14, list(POOLING)))
