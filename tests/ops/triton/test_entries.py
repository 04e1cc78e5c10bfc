"""Where the entries of the experts' keys go, and the sums beside them, from the kernel alone."""

import pytest
import torch

from support.operator_cases import DEVICE, relative_error

pytest.importorskip('triton')

from mita_seg.ops.triton.blocks import choose_blocks, choose_entry_blocks, choose_reduce_blocks
from mita_seg.ops.triton.gpu import ARCHITECTURES
from mita_seg.ops.triton.launch import cdiv
from mita_seg.ops.triton.routed_backward import _reduce_and_place_kernel

HEADS, ENTRY_BLOCK = 2, 64


def launch(landmarks, *, tokens=0, keys=None, tiles=None, programs=1, values=None, parts=None):
    """-> shift, entry_start, grad_values, value_delta; `keys` [B H, m, k], `tiles` [B H, m]."""
    routed, shared = keys is not None, parts is not None
    topk = keys.shape[2] if routed else 0
    splits, dim = (parts.shape[1], parts.shape[3]) if shared else (1, 16)
    blocks = choose_blocks(HEADS, max(1, tokens), dim, landmarks, topk, 1, 2, ARCHITECTURES[90])
    key_blocks = cdiv(tokens, ENTRY_BLOCK)
    place_programs, place = choose_entry_blocks(blocks.all_landmarks, key_blocks)
    reduce = choose_reduce_blocks(blocks, place['num_warps'])
    reduce['BLOCK_S'] = min(4, splits)  # several steps
    reduce_programs = cdiv(landmarks, reduce['BLOCK_M']) if shared else 0

    nothing = torch.zeros(1, device=DEVICE, dtype=torch.int32)
    shift = entry_start = first_tile = used = nothing
    grad_values = delta = nothing
    num_tiles = 0
    if routed:
        first_tile = tiles.cumsum(1).sub(tiles).int()
        num_tiles = int(tiles.sum(1).max()) + 3
        used = torch.full((HEADS, num_tiles + 1), -1, device=DEVICE, dtype=torch.int32)
        used[:, -1] = tiles.sum(1)
        shift = torch.full((HEADS, key_blocks, landmarks), -1, device=DEVICE, dtype=torch.int32)
        entry_start = torch.full((HEADS, key_blocks + 1), -1, device=DEVICE, dtype=torch.int32)
    if shared:
        grad_values = torch.full_like(values, torch.nan)
        delta = torch.full(values.shape[:2], torch.nan, device=DEVICE)
    _reduce_and_place_kernel[reduce_programs + (place_programs if routed else 0), HEADS](
        parts if shared else nothing, nothing, nothing, values if shared else nothing, nothing,
        nothing, grad_values, nothing, nothing, delta,
        keys.int().contiguous() if routed else nothing, used, first_tile, shift, entry_start,
        0, 0, 0, 0, HEADS, landmarks, splits, reduce_programs, topk, key_blocks, num_tiles,
        programs, 1.0,
        D=dim, BLOCK_D=blocks.dim, SHARED=shared, REMAINDER=False, ROUTED=routed,
        ENTRY_BLOCK=ENTRY_BLOCK, TOPK_BITS=topk.bit_length(), ALL_M=blocks.all_landmarks, **reduce,
        **place,
    )  # fmt: skip
    return shift, entry_start, grad_values, delta


def place(keys, tokens, tiles, programs):
    """The same places from counts: entries by block, then expert, then segment, then key."""
    key_blocks = cdiv(tokens, ENTRY_BLOCK)
    of_block = torch.nn.functional.one_hot(keys // ENTRY_BLOCK, key_blocks).sum(2)  # [B H, m, b]
    count = of_block.transpose(1, 2)
    first, end = tiles.cumsum(1) - tiles, tiles.cumsum(1)
    # Program p has the tiles from p used // programs on.
    begin = torch.arange(programs + 1, device=DEVICE) * tiles.sum(1, keepdim=True) // programs
    meets = (begin[:, None, :-1] < end[..., None]) & (first[..., None] < begin[:, None, 1:])
    entries = count * meets.sum(2)[:, None]
    position = entries.flatten(1).cumsum(1).view_as(entries) - entries
    shift = (position - (count.cumsum(1) - count)) * 128 + count
    total = entries.flatten(1).sum(1, keepdim=True)
    return shift, torch.cat([position[:, :, 0], total], 1)


def draw_keys(tokens, landmarks, topk):
    scores = torch.rand(HEADS, landmarks, tokens, device=DEVICE)
    return scores.topk(topk).indices.sort().values


CASES = [  # N, m, k, the most tiles of an expert, expert_programs
    (1, 3, 1, 1, 1),
    (33, 4, 33, 1, 2),
    (64, 16, 7, 2, 16),
    (65, 1, 5, 9, 1),
    (1000, 9, 1, 3, 4),
    (1024, 49, 49, 3, 11),
    (1025, 17, 64, 2, 17),
    (1089, 5, 63, 5, 5),
    (2048, 49, 20, 4, 49),
    (4000, 100, 100, 6, 44),
    (2050, 100, 31, 1, 7),
    (1500, 257, 255, 2, 100),
    (5000, 2, 1023, 30, 2),
    (1024, 1, 1024, 20, 1),
    (1030, 1024, 3, 2, 264),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_places_of_random_keys(case):
    tokens, landmarks, topk, most, programs = case
    check(draw_keys(tokens, landmarks, topk), tokens, most, programs)


@pytest.mark.parametrize('first', [0, 15 * ENTRY_BLOCK - 25, 2003 - 50])
@pytest.mark.parametrize('landmarks', [1, 49])
def test_places_of_keys_side_by_side(landmarks, first):
    """Each expert has keys in one block or two, and none in the others."""
    keys = first + torch.arange(50, device=DEVICE).expand(HEADS, landmarks, 50)
    check(keys, 2003, 3, landmarks)


def test_places_of_keys_at_the_ends():
    """The first block has half of each expert's keys, the last one the rest, or all of them."""
    ends = torch.cat([torch.arange(20), torch.arange(3980, 4000)])
    keys = torch.stack([ends, torch.arange(3960, 4000)] * 5).to(DEVICE)
    check(keys.expand(HEADS, -1, -1), 4000, 2, 7)


def check(keys, tokens, most, programs):
    tiles = torch.randint(1, most + 1, keys.shape[:2], device=DEVICE)
    shift, start, *_ = launch(
        keys.shape[1], tokens=tokens, keys=keys, tiles=tiles, programs=programs
    )
    wanted_shift, wanted_start = place(keys, tokens, tiles, programs)
    assert torch.equal(shift.long(), wanted_shift)
    assert torch.equal(start.long(), wanted_start)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
@pytest.mark.parametrize('splits', [1, 11])
@pytest.mark.parametrize(
    ('landmarks', 'dim'), [(1, 64), (9, 16), (49, 40), (49, 64), (100, 128), (256, 64)]
)
def test_sums_of_shared_values(landmarks, dim, splits, dtype):
    parts = torch.randn(HEADS, splits, landmarks, dim, device=DEVICE)
    values = torch.randn(HEADS, landmarks, dim, device=DEVICE).to(dtype)
    *_, grad_values, delta = launch(landmarks, values=values, parts=parts)
    wanted = parts.double().sum(1)
    assert relative_error(grad_values, wanted) < torch.finfo(dtype).eps
    assert relative_error(delta, (wanted * values).sum(2)) < 1e-6


def test_places_and_sums_in_one_launch():
    tokens, landmarks, programs = 1100, 49, 13
    keys, tiles = draw_keys(tokens, landmarks, 49), torch.full((HEADS, landmarks), 2, device=DEVICE)
    parts = torch.randn(HEADS, 6, landmarks, 32, device=DEVICE)
    values = torch.randn(HEADS, landmarks, 32, device=DEVICE)
    inputs = {'keys': keys, 'tiles': tiles, 'tokens': tokens, 'programs': programs}
    both = launch(landmarks, values=values, parts=parts, **inputs)
    apart = launch(landmarks, **inputs)[:2] + launch(landmarks, values=values, parts=parts)[2:]
    for result, wanted in zip(both, apart, strict=True):
        assert torch.equal(result, wanted)
