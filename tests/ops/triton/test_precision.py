"""Errors against float64, given the kernels' choice, beside plain operations in the same dtype.

Outputs may be off by twice as much as those of plain operations, gradients by three times.
"""

import pytest
import torch

from support.kernel_cases import assert_as_precise_as_plain_operations
from support.operator_cases import DEVICE, draw_inputs

pytest.importorskip('triton')

pytestmark = pytest.mark.slow

# Triton's interpreter has no bfloat16.
LOW = [torch.float16] + [torch.bfloat16] * (DEVICE == 'cuda')

# tokens, landmarks, keys: experts that overlap little (a sparse fold), and more landmarks than a
# block (a dense one). On a GPU also both, and more keys than a block.
SIZES = [(90, 9, 7)]
if DEVICE == 'cuda':
    SIZES = [(1000, 9, 49), (700, 70, 49), (6000, 70, 70)]
DIM = 64 if DEVICE == 'cuda' else 16
TALL = (70, 66, 2)  # the interpreter takes long for many landmarks
SCALES = [0.1, 1, 10]


@pytest.mark.parametrize('dtype', [*LOW, torch.float32])
@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('num_routed', [1, 2])
@pytest.mark.parametrize('size', SIZES)
def test_errors_are_those_of_plain_operations(dtype, scale, num_routed, size):
    tokens, landmarks, topk = size
    tensors = draw_inputs(tokens, landmarks, DIM, dtype=dtype, scale=scale)
    assert_as_precise_as_plain_operations(tensors, topk, num_routed)


@pytest.mark.parametrize(
    ('dtype', 'scale', 'num_routed'),
    [(torch.float16, 10, 2), pytest.param(torch.float32, 1, 1, marks=pytest.mark.long)],
)
def test_errors_with_more_landmarks_than_a_block(dtype, scale, num_routed):
    tokens, landmarks, topk = TALL
    tensors = draw_inputs(tokens, landmarks, dtype=dtype, scale=scale)
    assert_as_precise_as_plain_operations(tensors, topk, num_routed)


@pytest.mark.parametrize('dtype', LOW)
@pytest.mark.parametrize(
    ('dim', 'options'),
    [(dim, {}) for dim in (24, 64, 128)]
    + [
        (dim, options)
        for dim in ((64, 24, 128) if DEVICE == 'cuda' else (24,))
        for options in ({'num_routed': 2}, {'topk': 0}, {'shared': False})
    ],
)
def test_errors_of_every_kind_of_expert_and_head_dimension(dtype, options, dim):
    assert_as_precise_as_plain_operations(
        draw_inputs(60, 5, dim, dtype=dtype), **{'topk': 6, **options}
    )


@pytest.mark.parametrize('dtype', LOW)
@pytest.mark.parametrize(
    ('tokens', 'landmarks', 'topk', 'num_routed', 'shared'),
    [
        (140, 4, 100, 1, True),
        (140, 4, 100, 2, False),
        (60, 70, 0, 1, True),
        (70, 66, 2, 1, False),
        pytest.param(
            900, 130, 130, 2, True,
            marks=pytest.mark.skipif(DEVICE == 'cpu', reason='takes minutes under the interpreter'),
        ),
    ],
)  # fmt: skip
def test_errors_with_several_blocks_of_keys_or_landmarks(
    dtype, tokens, landmarks, topk, num_routed, shared
):
    tensors = draw_inputs(tokens, landmarks, dtype=dtype)
    assert_as_precise_as_plain_operations(tensors, topk, num_routed, shared)


@pytest.mark.parametrize('dtype', LOW)
@pytest.mark.parametrize(('tokens', 'topk'), [(1025, 49), (1174, 36)])
def test_errors_as_a_vision_transformer_calls_it(dtype, tokens, topk):
    """Encoder and decoder at 512 pixels; query, key and value lie in one tensor."""
    images, heads = (8, 6) if DEVICE == 'cuda' else (1, 2)
    packed = torch.randn(images, tokens, 3, heads, 64, device=DEVICE).to(dtype)
    landmarks = torch.randn(images, heads, topk, 64, device=DEVICE).to(dtype)
    tensors = [*packed.permute(2, 0, 3, 1, 4).unbind(), landmarks]
    assert_as_precise_as_plain_operations([each.requires_grad_() for each in tensors], topk)
