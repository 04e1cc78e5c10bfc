"""Top-k keys of each landmark, beside the sort of the queries into tiles of one expert.

One launch does both, and merges the shared values. The selections of all heads, which take the
longest, come first: the others fill in behind them.

Top-k: the threshold, the k-th largest score, is searched among integers in the order of the scores;
of equal scores the lowest indices are kept. With block maxima, blocks that hold the top-k entries
are selected first, then the entries themselves. Absent entries count as -inf: they follow all
others, so that no tie is ever decided for them.
"""

import torch
import triton
import triton.language as tl

from ..options import MiTAOptions
from .blocks import SELECT_SCORES, Blocks
from .call_plan import Plan
from .launch import cdiv, next_power_of_2
from .score_and_route import Scored
from .state import State
from .steps import _load_rows

_LOWEST = tl.constexpr(-2139095041)  # -inf in the order of `_ordered`


@triton.jit
def _ordered(b_scores):
    """float32 -> int32 in the same order; -0.0 equals 0.0, and NaN is the largest."""
    bits = (b_scores + 0.0).to(tl.int32, bitcast=True)
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return tl.where(b_scores == b_scores, bits, 0x7FFFFFF0)


@triton.jit
def _unordered(key):
    """The inverse of `_ordered`."""
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit
def _threshold(b_keys, guess, count, most, SIZE: tl.constexpr):
    """A key that `count` to `most` of b_keys [SIZE] reach, and how many do.

    Where ties leave no such key, the largest one that at least `count` reach.
    """
    low, high = _LOWEST, tl.max(b_keys, 0) + 1
    reached = SIZE
    # Counts fall off like a bell's tail: their roots are nearly linear in the score.
    root_low, root_high = tl.sqrt(SIZE + 0.0), 0.0
    root = tl.sqrt((count + most) * 0.5)
    step = 0
    while (reached > most) & (low + 1 < high):
        middle = tl.minimum(tl.maximum(guess, low + 1), high - 1)
        above = tl.sum((b_keys >= middle).to(tl.int32), 0)
        enough = above >= count
        low, high = tl.where(enough, middle, low), tl.where(enough, high, middle)
        reached = tl.where(enough, above, reached)
        root_above = tl.sqrt(above.to(tl.float32))
        root_low = tl.where(enough, root_above, root_low)
        root_high = tl.where(enough, root_high, root_above)
        share = (root_low - root) / (root_low - root_high)
        bottom = _unordered(low)
        guess = _ordered(bottom + (_unordered(high) - bottom) * share)
        # Odd distributions are slow that way; halving integers surely ends.
        halved = (low >> 1) + (high >> 1) + (low & high & 1)
        step += 1
        guess = tl.where((step >= 8) & (step % 2 == 0), halved, guess)
    return low, reached


@triton.jit
def _bits(chosen, ROW: tl.constexpr):
    """[R, ROW] -> [R], a bit for each entry of a row, the first one lowest."""
    return tl.sum(chosen.to(tl.uint32) << tl.arange(0, ROW)[None, :].to(tl.uint32), 1)


@triton.jit
def _count_bits(b_bits):
    """Ones among 32 bits, as the compiler knows them: it makes one instruction of these."""
    b_bits = b_bits - ((b_bits >> 1) & 0x55555555)
    b_bits = (b_bits & 0x33333333) + ((b_bits >> 2) & 0x33333333)
    b_bits = (b_bits + (b_bits >> 4)) & 0x0F0F0F0F
    return ((b_bits * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def _select(b_keys, guess, count, most, p_out, o_first, ROWS: tl.constexpr, ROW: tl.constexpr):
    """Writes the positions of the largest of b_keys [ROWS, ROW], ascending.

    They are `count` to `most`, or `count` where that takes a choice among equal keys. `o_first`
    [ROWS] are the positions of the first entry of each row. A row, which one thread holds, becomes
    a number of as many bits: few ranks are summed across threads, and blocks keep their layout.

    Returns how many they are, and a key that all of them reach.
    """
    b_flat = tl.reshape(b_keys, [ROWS * ROW], can_reorder=True)  # where it lies
    threshold, chosen = _threshold(b_flat, guess, count, most, ROWS * ROW)
    b_bits = _bits(b_keys >= threshold, ROW)
    if chosen > most:
        b_above = _bits(b_keys > threshold, ROW)
        b_tied = b_bits ^ b_above
        b_number = _count_bits(b_tied)
        b_rank = tl.cumsum(b_number, 0) - b_number
        wanted = count - tl.sum(_count_bits(b_above), 0)
        for i in tl.static_range(ROW):
            b_bit = (b_tied >> i) & 1
            b_above |= tl.where(b_rank < wanted, b_bit, 0) << i
            b_rank += b_bit.to(tl.int32)
        b_bits = b_above
        chosen = count
    b_number = _count_bits(b_bits)
    b_rank = tl.cumsum(b_number, 0) - b_number
    for i in tl.static_range(ROW):
        b_bit = ((b_bits >> i) & 1).to(tl.int32)
        tl.store(p_out + b_rank, o_first + i, mask=b_bit != 0)
        b_rank += b_bit
    return chosen, threshold


@triton.jit
def _select_keys(row, p_scores, p_maxima, p_blocks, p_indices, num_tokens, num_blocks, topk,
    KEY_BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Indices of the top-k keys of landmark `row` of all heads, ascending.

    `p_maxima`: the scores themselves, if blocks are of one key.
    """
    p_indices += row * topk
    ROW: tl.constexpr = 4 if BLOCK_B > 4 else BLOCK_B  # of one load
    o_first = tl.arange(0, BLOCK_B // ROW) * ROW
    o_b = o_first[:, None] + tl.arange(0, ROW)[None, :]
    b_maxima = tl.load(
        p_maxima + row * num_blocks + o_b, mask=o_b < num_blocks, other=float('-inf')
    )
    b_keys = _ordered(b_maxima)  # [BLOCK_B / ROW, ROW]
    b_finite = tl.where(b_keys > _LOWEST, b_keys, 0x7FFFFFF0)
    lowest = tl.min(tl.reshape(b_finite, [BLOCK_B], can_reorder=True), 0)
    if KEY_BLOCK == 1:
        _select(b_keys, lowest, topk, topk, p_indices, o_first, BLOCK_B // ROW, ROW)
    else:
        # Up to a power of two, more blocks than k end the search sooner. They are passed on
        # through memory.
        p_blocks += row * BLOCK_K
        chosen, threshold = _select(
            b_keys, lowest, topk, BLOCK_K, p_blocks, o_first, BLOCK_B // ROW, ROW
        )
        tl.debug_barrier()
        WIDTH: tl.constexpr = 4 if KEY_BLOCK > 4 else KEY_BLOCK
        PARTS: tl.constexpr = KEY_BLOCK // WIDTH  # of a block, of one load each
        o_part = tl.arange(0, BLOCK_K * PARTS)
        o_k = o_part // PARTS
        b_block = tl.load(p_blocks + o_k, mask=o_k < chosen, other=num_blocks)
        b_first = b_block * KEY_BLOCK + o_part % PARTS * WIDTH
        b_index = b_first[:, None] + tl.arange(0, WIDTH)[None, :]
        b_scores = tl.load(
            p_scores + row * num_tokens + b_index, mask=b_index < num_tokens, other=float('-inf')
        )
        b_keys = _ordered(b_scores)  # [BLOCK_K KEY_BLOCK / WIDTH, WIDTH]
        # At least k keys reach what k maxima reach.
        _select(b_keys, threshold, topk, topk, p_indices, b_first, BLOCK_K * PARTS, WIDTH)


@triton.jit
def _merge_values(
    landmark, head, p_part, p_part_total, p_part_peak, p_values, p_lse, splits, num_landmarks,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Shared value of a landmark, and log2 of its softmax sum, from the splits of the keys."""
    row = head * num_landmarks + landmark
    o_s, o_d = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    b_peak = tl.full([BLOCK_S], float('-inf'), dtype=tl.float32)
    for first in range(0, splits, BLOCK_S):
        o_row = (head * splits + first + o_s) * num_landmarks + landmark
        mask = first + o_s < splits
        b_peak = tl.maximum(b_peak, tl.load(p_part_peak + o_row, mask=mask, other=float('-inf')))
    peak = tl.max(b_peak, 0)
    b_total = tl.zeros([BLOCK_S], dtype=tl.float32)
    b_value = tl.zeros([BLOCK_D], dtype=tl.float32)
    for first in range(0, splits, BLOCK_S):
        o_row = (head * splits + first + o_s) * num_landmarks + landmark
        mask = first + o_s < splits
        b_factor = tl.load(p_part_peak + o_row, mask=mask, other=float('-inf')) - peak
        b_factor = tl.where(mask, tl.exp2(b_factor), 0.0)  # [S]
        b_total += tl.load(p_part_total + o_row, mask=mask, other=0.0) * b_factor
        b_part = _load_rows(p_part, o_row, D, 1, mask, D, BLOCK_D)  # [S, D]
        b_value += tl.sum(b_part * b_factor[:, None], 0)
    total = tl.sum(b_total, 0)
    p_out = p_values + row * D + o_d
    tl.store(p_out, (b_value / total).to(p_out.dtype.element_ty), mask=o_d < D)
    tl.store(p_lse + row, peak.to(p_lse.dtype.element_ty) + tl.log2(total))


@triton.jit
def _place_rows(
    block, blocks, head, p_expert, p_rank, p_counts, p_row_of_slot, p_tiles, p_first_tile,
    num_rows, num_landmarks, chunks, rows_per_chunk, num_tiles,
    HEIGHT: tl.constexpr, ALL_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Rows sorted by expert, in tiles of one expert each: the second half of a counting sort.

    Tiles of an expert follow each other; only its last one is partly filled, and an expert without
    rows has an empty one. As many tiles are allotted as the worst case needs, so that shapes don't
    depend on the data; how many are in use follows the last one. Writes row_of_slot [B H, tiles *
    HEIGHT], tiles [B H, tiles + 1] and first_tile [B H, m], as State has them.
    """
    o_m, o_c = tl.arange(0, ALL_M), tl.arange(0, BLOCK_C)
    p_tiles += head * (num_tiles + 1)
    m_mask = o_m < num_landmarks
    chunk = block * BLOCK_R // rows_per_chunk
    p_counts += head * chunks * num_landmarks
    b_total = tl.zeros([ALL_M], dtype=tl.int32)  # rows of each expert
    b_before = tl.zeros([ALL_M], dtype=tl.int32)  # of these, in chunks before this one
    for first in range(0, chunks, BLOCK_C):
        o_chunk = first + o_c
        mask = (o_chunk < chunks)[:, None] & m_mask[None, :]
        o_count = o_chunk[:, None] * num_landmarks + o_m[None, :]
        b_counts = tl.load(p_counts + o_count, mask=mask, other=0)  # [C, M]
        b_total += tl.sum(b_counts, 0)
        b_before += tl.sum(tl.where((o_chunk < chunk)[:, None], b_counts, 0), 0)
    b_tiles = tl.where(m_mask, tl.maximum((b_total + HEIGHT - 1) // HEIGHT, 1), 0)
    b_end = tl.cumsum(b_tiles, 0)  # [M], the tile after the expert's last
    b_first = b_end - b_tiles

    o_row = block * BLOCK_R + tl.arange(0, BLOCK_R)
    mask = o_row < num_rows
    b_expert = tl.load(p_expert + head * num_rows + o_row, mask=mask, other=0)
    b_rank = tl.load(p_rank + head * num_rows + o_row, mask=mask, other=0)
    b_slot = tl.gather(b_first * HEIGHT + b_before, b_expert, 0) + b_rank
    tl.store(p_row_of_slot + head * num_tiles * HEIGHT + b_slot, o_row, mask=mask)

    for first in range(block * BLOCK_T, num_tiles, blocks * BLOCK_T):
        o_t = first + tl.arange(0, BLOCK_T)
        own = (b_first[None, :] <= o_t[:, None]) & (o_t[:, None] < b_end[None, :])  # [T, M]
        b_left = b_total[None, :] - (o_t[:, None] - b_first[None, :]) * HEIGHT
        b_tile = o_m[None, :] * 256 + tl.minimum(b_left, HEIGHT)
        b_tile = tl.sum(tl.where(own, b_tile, 0), 1)
        tl.store(p_tiles + o_t, b_tile, mask=o_t < num_tiles)
    if block == 0:
        tl.store(p_tiles + num_tiles, tl.sum(b_tiles, 0))
        tl.store(p_first_tile + head * num_landmarks + o_m, b_first, mask=m_mask)


@triton.jit
def _assign_kernel(
    p_scores, p_maxima, p_blocks, p_indices, p_part, p_part_total, p_part_peak, p_values, p_lse,
    p_expert, p_rank, p_counts, p_row_of_slot, p_tiles, p_first_tile,
    all_heads, num_tokens, num_blocks, topk, splits, num_landmarks,
    num_rows, chunks, rows_per_chunk, num_tiles, select_programs, place_programs,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, KEY_BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr, HEIGHT: tl.constexpr, ALL_M: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_T: tl.constexpr,
    ROUTED: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    """Grid (m programs that select, some that place, m that merge; each times B H).

    Writes indices [B H, m, k], what `_place_rows` does, and shared values [B H, m, D].
    """
    program, head = tl.program_id(0) // all_heads, (tl.program_id(0) % all_heads).to(tl.int64)
    if program < select_programs:
        if ROUTED:
            _select_keys(
                head * num_landmarks + program, p_scores, p_maxima, p_blocks, p_indices,
                num_tokens, num_blocks, topk, KEY_BLOCK, BLOCK_K, BLOCK_B,
            )  # fmt: skip
    elif program < select_programs + place_programs:
        if ROUTED:
            _place_rows(
                program - select_programs, place_programs, head,
                p_expert, p_rank, p_counts, p_row_of_slot, p_tiles, p_first_tile,
                num_rows, num_landmarks, chunks, rows_per_chunk, num_tiles,
                HEIGHT, ALL_M, BLOCK_C, BLOCK_R, BLOCK_T,
            )  # fmt: skip
    elif SHARED:
        _merge_values(
            program - select_programs - place_programs, head,
            p_part, p_part_total, p_part_peak, p_values, p_lse,
            splits, num_landmarks, D, BLOCK_D, BLOCK_S,
        )  # fmt: skip


def select_and_sort(
    plan: Plan, scored: Scored, state: State, options: MiTAOptions, blocks: Blocks
) -> None:
    """Writes the experts, the shared values and the tiles of a State."""
    topk, num_routed, shared = options.topk, options.num_routed, options.shared
    rows, num_tiles = state.tiles.shape[0], state.tiles.shape[1] - 1
    tokens, routed = state.lse.shape[1], topk > 0
    num_rows, num_blocks = tokens * num_routed, cdiv(tokens, blocks.key_block)
    num_landmarks, dim = state.indices.shape[1], state.values.shape[2]
    chunks = scored.counts.shape[1] if routed else 0
    chosen = scored.scores
    if routed and blocks.key_block > 1:
        chosen = plan.scratch(rows, num_landmarks, next_power_of_2(topk), dtype=torch.int32)
    block_rows = min(128 * blocks.select_warps, blocks.chunk)
    place_programs = cdiv(num_rows, block_rows) if routed else 0
    select_programs = num_landmarks if routed else 0
    merge_programs = num_landmarks if shared else 0
    per_step = max(1, SELECT_SCORES * blocks.select_warps // blocks.all_landmarks)
    plan.launch(
        _assign_kernel, ((select_programs + place_programs + merge_programs) * rows,),
        scored.scores, scored.maxima, chosen, state.indices,
        scored.part_values, scored.part_total, scored.part_peak, state.values,
        state.landmark_lse, scored.row_expert, scored.row_rank, scored.counts,
        state.row_of_slot, state.tiles, state.first_tile,
        rows, tokens, num_blocks, topk, blocks.splits, num_landmarks,
        num_rows, chunks, blocks.chunk * num_routed, num_tiles,
        select_programs, place_programs,
        D=dim, BLOCK_D=blocks.dim, BLOCK_S=min(16, next_power_of_2(blocks.splits)),
        KEY_BLOCK=blocks.key_block, BLOCK_K=next_power_of_2(max(topk, 1)),
        BLOCK_B=next_power_of_2(num_blocks), HEIGHT=blocks.height, ALL_M=blocks.all_landmarks,
        BLOCK_C=min(per_step, next_power_of_2(max(chunks, 1))), BLOCK_R=block_rows,
        BLOCK_T=min(per_step, 64),
        ROUTED=routed, SHARED=shared, num_warps=blocks.select_warps,
    )  # fmt: skip
