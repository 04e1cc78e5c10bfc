"""The blocks of each class of GPUs compute the same, under the interpreter too."""

import pytest
import torch

from support.kernel_cases import assert_kernels_agree
from support.operator_cases import DEVICE, draw_inputs

pytest.importorskip('triton')

from mita_seg.ops.triton import call_plan as plan
from mita_seg.ops.triton.blocks import choose_blocks, choose_table, share_tiles
from mita_seg.ops.triton.gpu import ARCHITECTURES, Gpu, treat_gpus_as


@pytest.fixture(params=[80, 89, 100, 120])
def other_gpu(request, monkeypatch):
    if DEVICE == 'cuda':
        pytest.skip('tests/support/compile_as.py runs all tests that way')
    monkeypatch.setattr(plan, '_recordings', plan.Latest())
    treat_gpus_as(ARCHITECTURES[request.param])
    yield
    treat_gpus_as(None)


def test_half_a_tile_at_a_time(other_gpu):
    """Tiles of 64 queries, of which the gradients of the experts take 32."""
    tensors = draw_inputs(300, 3, dtype=torch.float16)
    assert_kernels_agree(tensors, 2e-2, topk=5)


@pytest.mark.parametrize(
    ('capability', 'kibibytes', 'like'),
    [(86, 99, 89), (87, 163, 80), (90, 227, 90), (103, 227, 100), (121, 99, 120), (150, 300, 100)],
)
def test_unknown_gpus_are_treated_by_their_shared_memory(capability, kibibytes, like):
    table = choose_table(Gpu(capability, kibibytes * 1024, 50))
    assert table is choose_table(ARCHITECTURES[like])
    assert table.shared_memory <= kibibytes * 1024


@pytest.mark.parametrize(('heads', 'shares'), [(1, 11), (48, 10), (192, 8), (2000, 1)])
def test_tiles_are_shared_so_that_waves_of_programs_end_together(heads, shares):
    tiles = 11 if heads == 1 else 56
    assert share_tiles(528, heads, tiles) == shares


def test_programs_follow_the_number_of_multiprocessors():
    few, many = (
        choose_blocks(4, 65536, 64, 49, 49, 1, 2, ARCHITECTURES[80]._replace(multiprocessors=count))
        for count in (20, 100)
    )
    assert few.splits < many.splits and few.attend_programs * 5 == many.attend_programs


@pytest.mark.parametrize(
    ('landmarks', 'topk', 'mixed', 'programs'),
    [(49, 49, True, 6), (36, 36, True, 6), (60, 60, False, 5), (48, 48, False, 6)],
)
def test_programs_of_low_tiles_fit_memory_and_registers(landmarks, topk, mixed, programs):
    """An H100's multiprocessor has 228 KiB, and registers for 12 warps of 168 each."""
    gpu = ARCHITECTURES[90]
    blocks = choose_blocks(48, 1024, 64, landmarks, topk, 1, 2, gpu)
    assert blocks.tile_height == 32 and blocks.mixed == mixed
    assert blocks.attend_programs == programs * gpu.multiprocessors


@pytest.mark.parametrize('tokens', [1025, 1036])
@pytest.mark.parametrize('heads', [48, 192])
def test_class_tokens_beside_a_square_map_cost_no_program_and_no_longer_search(heads, tokens):
    square, more = (
        choose_blocks(heads, count, 64, 49, 49, 1, 2, ARCHITECTURES[90]) for count in (1024, tokens)
    )
    for name in ('splits', 'chunks', 'searched', 'select_warps'):
        assert getattr(more, name) == getattr(square, name), name


@pytest.mark.parametrize(('tokens', 'topk', 'searched'), [(1036, 49, 256), (1144, 49, 512)])
def test_no_more_blocks_than_fit_are_selected_unsearched(tokens, topk, searched):
    """Of four keys each; 64 are selected."""
    blocks = choose_blocks(48, tokens, 64, 49, topk, 1, 2, ARCHITECTURES[90])
    assert (blocks.key_block, blocks.searched) == (4, searched)


@pytest.mark.parametrize('tokens', [5, 300, 1025, 33001])
def test_scores_and_maxima_of_a_landmark_begin_at_multiples_of_64_bytes(tokens):
    blocks = choose_blocks(2, tokens, 64, 5, 5, 1, 2, ARCHITECTURES[90])
    assert blocks.score_columns >= tokens
    assert blocks.score_columns * 4 % 64 == 0
    assert blocks.score_columns // blocks.key_block * 4 % 64 == 0
