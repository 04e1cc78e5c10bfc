"""float16 at activations whose unscaled products exceed 65504, the largest float16."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from mita_seg.ops import mita_attention, route_queries, select_experts
from support.operator_cases import gradients, relative_error, with_gradients

BACKENDS = ['reference', 'tiled', 'masked']
LARGEST = torch.finfo(torch.float16).max


def draw_inputs(offset):
    """Activations of one sign, and landmarks that are means of queries."""
    query, key = (offset + torch.randn(2, 1, 2, 100, 64)).half().unbind()
    landmarks = query.unflatten(2, (10, 10)).mean(3)
    tensors = query, key, torch.randn(1, 2, 100, 64).half(), landmarks
    assert (query.double() @ key.double().mT).max() > LARGEST
    return [tensor.requires_grad_() for tensor in tensors]


def errors(attend, tensors):
    """Of output and gradients, relative to float64."""
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    pairs = zip(*(with_gradients(inputs, attend) for inputs in (tensors, exact)), strict=True)
    return torch.tensor([relative_error(*pair) for pair in pairs])


@pytest.mark.parametrize('backend', BACKENDS)
def test_output_and_gradients_are_finite(backend):
    tensors = draw_inputs(32)
    output = mita_attention(*tensors, topk=16, backend=backend)
    assert output.dtype == torch.float16 and output.isfinite().all()
    assert all(grad.isfinite().all() for grad in gradients(output, tensors))


@pytest.mark.parametrize('backend', ['tiled', 'masked'])
@pytest.mark.parametrize('offset', [32, 100])  # scaled logits of 8192, and of 80000
def test_errors_are_those_of_full_attention(backend, offset):
    tensors = draw_inputs(offset)
    full = errors(scaled_dot_product_attention, tensors[:3])
    mita = errors(lambda *inputs: mita_attention(*inputs, topk=16, backend=backend), tensors)
    assert (mita[:4] <= 2 * full).all() and mita.isfinite().all()


def test_keys_and_experts_are_those_of_the_exact_scores():
    key, query, landmarks = (120 * torch.randn(1, 2, rows, 64) for rows in (100, 100, 9))
    key, query, landmarks = (tensor.half() for tensor in (key, query, landmarks))
    exact = [tensor.double() for tensor in (key, query, landmarks)]
    scores = exact[2] @ exact[0].mT
    assert (scores > LARGEST).sum(-1).max() > 5  # which would all be infinite
    assert torch.equal(select_experts(key, landmarks, 5), select_experts(exact[0], exact[2], 5))
    assert torch.equal(route_queries(query, landmarks, 2), route_queries(exact[1], exact[2], 2))
