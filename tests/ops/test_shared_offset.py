"""The offset of the shared expert's logits."""

import pytest
import torch

from mita_seg.ops import mita_attention
from support.operator_cases import draw_inputs, make_inputs, with_gradients


def inputs(name='two_experts', dtype=torch.float32):
    return make_inputs(name, dtype)


@pytest.mark.parametrize('backend', ['reference', 'tiled', 'masked'])
def test_far_below_it_is_route_only(backend):
    tensors, options = inputs(dtype=torch.float64)
    off = mita_attention(*tensors, **options, shared_offset=-10_000, backend=backend)
    route_only = mita_attention(*tensors, **{**options, 'shared': False}, backend=backend)
    torch.testing.assert_close(off, route_only)


@pytest.mark.parametrize('backend', ['reference', 'tiled', 'masked'])
def test_far_above_it_is_compress_only(backend):
    tensors, options = inputs(dtype=torch.float64)
    alone = mita_attention(*tensors, **options, shared_offset=10_000, backend=backend)
    compress_only = mita_attention(*tensors, **{**options, 'topk': 0}, backend=backend)
    torch.testing.assert_close(alone, compress_only)


@pytest.mark.parametrize(
    ('tokens', 'landmarks', 'topk', 'num_routed', 'offset'),
    [
        (30, 4, 5, 1, -3.0),  # all scores at once
        (30, 4, 5, 2, 2.0),
        (150, 4, 140, 1, -3.0),  # keys block by block
        pytest.param(100, 66, 5, 2, -3.0, marks=pytest.mark.long),  # landmarks, too
    ],
)
def test_kernels_agree(tokens, landmarks, topk, num_routed, offset):
    pytest.importorskip('triton')
    tensors = draw_inputs(tokens, landmarks)
    options = {'num_routed': num_routed, 'topk': topk, 'shared_offset': offset}
    expected = with_gradients(tensors, **options, backend='reference')
    results = with_gradients(tensors, **options, backend='triton')
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('offset', [60.0, -60.0, 1000.0])
@pytest.mark.parametrize('tokens', [1, 33])
def test_kernels_agree_in_float16_with_large_offsets(tokens, offset):
    """Also where a block has fewer queries than places."""
    pytest.importorskip('triton')
    tensors = draw_inputs(tokens, 4, dtype=torch.float16)
    options = {'topk': 3, 'shared_offset': offset}
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = with_gradients(exact, **options, backend='reference')
    for result, wanted in zip(
        with_gradients(tensors, **options, backend='triton'), expected, strict=True
    ):
        torch.testing.assert_close(result.double(), wanted, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize('alone', [{'topk': 0}, {'shared': False}])
def test_alone_it_makes_no_difference(alone):
    tensors, options = inputs()
    options = {**options, **alone}
    assert torch.equal(
        mita_attention(*tensors, **options, shared_offset=-5.0), mita_attention(*tensors, **options)
    )


@pytest.mark.parametrize(
    ('offset', 'error', 'message'),
    [
        (float('-inf'), ValueError, 'shared_offset must be finite'),
        (-10_001, ValueError, 'shared_offset must be from -10000 to 10000, got -10001'),
        (None, TypeError, 'shared_offset must be a number, got None'),
    ],
)
def test_bad_values_are_refused(offset, error, message):
    tensors, options = inputs()
    with pytest.raises(error, match=message):
        mita_attention(*tensors, **options, shared_offset=offset)
