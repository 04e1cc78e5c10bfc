"""The first token that may be a key of an expert."""

import pytest
import torch
from torch.export import export

from mita_seg.analysis import record_routing
from mita_seg.layers import MiTAAttention
from mita_seg.ops import mita_attention
from support.operator_cases import gradients, make_inputs, on_device, with_gradients


def inputs(dtype=torch.float32):
    tensors, options = make_inputs('two_experts', dtype)
    return tensors, {**options, 'first_key': 40}  # of 50 tokens, five per expert


@pytest.mark.parametrize('backend', ['tiled', 'masked', 'triton'])
def test_backends_agree_with_the_definition(backend):
    if backend == 'triton':
        pytest.importorskip('triton')
    tensors, options = inputs()
    tensors = on_device(tensors)
    expected = with_gradients(tensors, **options, backend='reference')
    results = with_gradients(tensors, **options, backend=backend)
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('backend', ['reference', 'tiled', 'masked'])
@pytest.mark.parametrize('topk', [5, 99])
def test_earlier_tokens_are_in_no_expert(backend, topk):
    tensors, options = inputs(torch.float64)
    options = {**options, 'shared': False, 'topk': topk}
    output = mita_attention(*tensors, **options, backend=backend)
    _, grad_key, grad_value, _ = gradients(output, tensors)
    assert not grad_key[:, :, :40].any() and not grad_value[:, :, :40].any()
    assert grad_value[:, :, 40:].any()


class Operator(torch.nn.Module):
    def forward(self, *tensors):
        return mita_attention(*tensors, topk=99, num_routed=2, first_key=40)


def test_exported():
    tensors, _ = make_inputs('two_experts', torch.float32, requires_grad=False)
    program = export(Operator(), tensors)
    torch.testing.assert_close(program.module()(*tensors), Operator()(*tensors))


def test_layer_and_its_analysis():
    layer = MiTAAttention(16, 2, landmarks=(2, 2), topk=3, first_key=1)
    with record_routing(torch.nn.ModuleDict({'layer': layer})) as records:
        layer(torch.randn(1, 13, 16), (3, 4), 1)
    assert records['layer'][0].experts.min() >= 1


@pytest.mark.parametrize(
    ('first_key', 'error', 'message'),
    [
        (50, ValueError, 'first_key must be below 50 tokens, got 50'),
        (-1, ValueError, 'first_key must be at least 0, got -1'),
        (1.5, TypeError, 'first_key must be an int, got 1.5'),
    ],
)
def test_bad_values_are_refused(first_key, error, message):
    tensors, options = inputs()
    with pytest.raises(error, match=message):
        mita_attention(*tensors, **{**options, 'first_key': first_key})
