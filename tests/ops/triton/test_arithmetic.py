"""The Triton kernels against the reference: on a GPU where there is one, else interpreted."""

import pytest
import torch

from mita_seg.ops import route_queries
from support.kernel_cases import assert_kernels_agree
from support.operator_cases import CASES, DEVICE, draw_inputs, make_inputs, on_device

pytest.importorskip('triton')

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('case', CASES)
def test_equals_reference_in_outputs_and_gradients(case):
    tensors, arguments = make_inputs(case)
    assert_kernels_agree(on_device(tensors), **arguments, landmark_scale=0.1)


@pytest.mark.parametrize('dim', [24, 64, 128])
def test_head_dimensions(dim):
    assert_kernels_agree(draw_inputs(45, 6, dim), topk=5)


@pytest.mark.parametrize(
    ('tokens', 'landmarks', 'topk', 'num_routed'),
    [(1100, 5, 7, 1), (300, 66, 7, 2), (700, 6, 130, 1)],
)
def test_several_blocks(tokens, landmarks, topk, num_routed):
    """Selection through block maxima, several chunks of queries, blocks of landmarks and keys."""
    assert_kernels_agree(draw_inputs(tokens, landmarks), topk=topk, num_routed=num_routed)


@pytest.mark.parametrize('tokens', [1, 16, 1023, 1024, 1025, 2048, 2049])
def test_maps_about_the_size_of_512_pixels(tokens):
    assert_kernels_agree(draw_inputs(tokens, 9), topk=9)


@pytest.mark.parametrize(
    ('landmarks', 'options'),
    [(9, {'topk': 40}), (9, {'topk': 40, 'shared': False}), (20, {'topk': 35, 'num_routed': 2})],
)
def test_low_tiles_in_pieces_of_keys_and_columns(landmarks, options):
    """Tiles of 32 queries, two pieces of keys, and two blocks of columns, the second of 8."""
    tensors = draw_inputs(200, landmarks, 40, dtype=torch.float16)
    assert_kernels_agree(tensors, 2e-2, **options)


@pytest.mark.parametrize(
    ('landmarks', 'topk', 'options'),
    [
        (17, 35, {}),  # 16 and 32 in pieces of their own, one and three together
        (3, 13, {}),  # all together
        (20, 33, {'num_routed': 2}),  # a query's second expert comes without landmarks
        (16, 36, {'shared_offset': 1.5}),  # no landmark is left for the piece
        (37, 32, {}),  # no key is
        (25, 24, {}),  # too many for one piece
    ],
)
def test_last_landmarks_and_keys_in_one_piece_of_16(landmarks, topk, options):
    tensors = draw_inputs(45, landmarks, 16, dtype=torch.float16)
    assert_kernels_agree(tensors, 2e-2, topk=topk, landmark_scale=0.2, **options)


@pytest.mark.skipif(DEVICE == 'cpu', reason='takes minutes under the interpreter')
def test_the_most_landmarks_and_keys():
    assert_kernels_agree(draw_inputs(3000, 1024, 32, heads=2), topk=1024)


@pytest.mark.parametrize('options', [{}, {'num_routed': 2}, {'topk': 0}, {'shared': False}])
@pytest.mark.skipif(DEVICE == 'cpu', reason='interpreted kernels are not recorded')
def test_repeated_call_works_on_its_own_tensors(options):
    options = {'topk': 6, **options}
    query, _, *others = draw_inputs(40, 5, batch=2)
    assert_kernels_agree(on_device([query, query, *others]), **options)
    for seed in (1, 2):
        assert_kernels_agree(draw_inputs(40, 5, batch=2, seed=seed), **options)


def test_every_query_on_one_expert():
    tensors, arguments = make_inputs('usual')
    query, key, value, landmarks = (tensor.detach().clone() for tensor in tensors)
    landmarks = -landmarks.abs()
    landmarks[:, :, 4] *= -1
    tensors = on_device([query.abs(), key, value, landmarks])
    assert (route_queries(tensors[0], tensors[3], 1) == 4).all()
    assert_kernels_agree(tensors, **arguments)


def test_strided_inputs():
    qkv = torch.randn(2, 40, 3, 2, 16, device=DEVICE, requires_grad=True)
    tensors = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    landmarks = torch.randn(2, 2, 16, 4, device=DEVICE).mT.requires_grad_()
    assert_kernels_agree([*tensors, landmarks], topk=5)
