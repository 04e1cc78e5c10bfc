"""Top-k keys of each landmark, and sorting of the queries into tiles of one expert, in one launch.

The launch also merges the shared values. The selections of all heads, which take the longest, come
first; the shorter programs run after them.

Top-k: the threshold is the k-th largest score. It is searched among integers in the order of the
scores; of equal scores the lowest indices are kept. With block maxima, the blocks with the top-k
entries are selected first, then the entries themselves. Absent entries count as -inf and come
after all others, so that a tie never selects them.
"""

import torch
import triton
import triton.language as tl

from ..options import MiTAOptions
from .blocks import SELECT_SCORES, Blocks, choose_merge_blocks
from .call_plan import Plan
from .launch import cdiv, next_power_of_2
from .score_and_route import Scored
from .state import State
from .steps import _store_rows

_LOWEST = tl.constexpr(-2139095041)  # -inf in the order of `_ordered`
_NEAR = tl.constexpr(2)  # keys too many or too few, which are found one by one
# Triton 3.3 compiles no gather of more entries than there are to several warps.
_GATHERS_MORE = tuple(map(int, triton.__version__.split('.')[:2])) >= (3, 4)


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
def _move(b_keys, guess, count, low, high):
    """A guess within the bounds, how many reach it, whether `count` do, and the nearer bounds."""
    guess = tl.minimum(tl.maximum(guess, low + 1), high - 1)
    above = tl.sum((b_keys >= guess).to(tl.int32), 0)
    enough = above >= count
    return guess, above, enough, tl.where(enough, guess, low), tl.where(enough, high, guess)


@triton.jit
def _threshold(b_keys, start, at_start, count, most, SIZE: tl.constexpr):
    """A threshold that `count` to `most` of b_keys [SIZE] reach, and how many reach it.

    If ties allow no such threshold, the largest one that at least `count` reach. The search begins
    as if `at_start` of them reached the key `start`: an estimate saves the first count.
    """
    low, high = _LOWEST, tl.max(b_keys, 0) + 1
    reached, beyond = SIZE, 0  # how many reach these
    # Counts fall like the tail of a bell curve: their roots are nearly linear in the score.
    bottom, top = _unordered(start), _unordered(high)
    root_bottom, root_top = tl.sqrt(at_start), 0.0
    root = tl.sqrt((count + most) * 0.5)
    step = 0
    while (reached - most > _NEAR) & (count - beyond > _NEAR) & (low + 1 < high):
        share = (root_bottom - root) / (root_bottom - root_top)
        guess = _ordered(bottom + (top - bottom) * share)
        # That is slow for unusual distributions. Halving integers always ends.
        halved = (low >> 1) + (high >> 1) + (low & high & 1)
        guess = tl.where((step >= 8) & (step % 2 == 0), halved, guess)
        guess, above, enough, low, high = _move(b_keys, guess, count, low, high)
        reached, beyond = tl.where(enough, above, reached), tl.where(enough, beyond, above)
        score, root_above = _unordered(guess), tl.sqrt(above.to(tl.float32))
        bottom, top = tl.where(enough, score, bottom), tl.where(enough, top, score)
        root_bottom = tl.where(enough, root_above, root_bottom)
        root_top = tl.where(enough, root_top, root_above)
        step += 1
    # Between keys that are nearly equal, guesses would take long. So the last keys are taken off,
    # or added, one by one.
    while (reached > most) & (low + 1 < high):
        if reached - most <= _NEAR:
            guess = tl.min(tl.where(b_keys >= low, b_keys, high), 0) + 1
        else:
            guess = tl.max(tl.where(b_keys < high, b_keys, low), 0)
        _, above, enough, low, high = _move(b_keys, guess, count, low, high)
        reached = tl.where(enough, above, reached)
    return low, reached


@triton.jit
def _bits(chosen, ROW: tl.constexpr):
    """[R, ROW] -> [R], one bit for each entry of a row, the first one lowest."""
    return tl.sum(chosen.to(tl.uint32) << tl.arange(0, ROW)[None, :].to(tl.uint32), 1)


@triton.jit
def _count_bits(b_bits):
    """How many of 32 bits are 1, written so that the compiler makes one instruction of it."""
    b_bits = b_bits - ((b_bits >> 1) & 0x55555555)
    b_bits = (b_bits & 0x33333333) + ((b_bits >> 2) & 0x33333333)
    b_bits = (b_bits + (b_bits >> 4)) & 0x0F0F0F0F
    return ((b_bits * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def _select(
    b_keys, start, at_start, count, most, p_out, o_first, ROWS: tl.constexpr, ROW: tl.constexpr
):
    """Writes the positions of the largest of b_keys [ROWS, ROW], ascending.

    About `at_start` of them reach the key `start`. `count` to `most` positions are written; exactly
    `count` if there is a choice among equal keys. `o_first` [ROWS] are the positions of the first
    entry of each row. Each row is in one thread and becomes one number of ROW bits: few ranks are
    summed across threads, and blocks keep their layout.

    Returns how many they are, and a key that all of them reach.
    """
    b_flat = tl.reshape(b_keys, [ROWS * ROW], can_reorder=True)  # where it lies
    threshold, chosen = _threshold(b_flat, start, at_start, count, most, ROWS * ROW)
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
def _select_keys(
    row, p_scores, p_maxima, p_blocks, p_indices, s_scores, s_maxima, num_tokens, num_blocks, topk,
    KEY_BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr, FULL: tl.constexpr,
    MARK: tl.constexpr,
):  # fmt: skip
    """Indices of the top-k keys of landmark `row` of all heads, ascending.

    `p_maxima`: the scores themselves, if blocks are of one key. FULL: there are at least BLOCK_B
    of them. Those behind BLOCK_B are not searched, and their blocks count as selected. MARK: the
    scores of the keys become -inf, for those who need the others.
    """
    p_indices += row * topk
    p_scores += row * s_scores
    ROW: tl.constexpr = 4 if BLOCK_B > 4 else BLOCK_B  # of one load
    o_first = tl.arange(0, BLOCK_B // ROW) * ROW
    o_b = o_first[:, None] + tl.arange(0, ROW)[None, :]
    p_row = p_maxima + row * s_maxima + o_b
    if FULL:
        b_maxima = tl.load(p_row)
    else:  # whole rows, so that a row is one load
        b_maxima = tl.load(p_row, mask=(o_first < num_blocks)[:, None], other=float('-inf'))
        b_maxima = tl.where(o_b < num_blocks, b_maxima, float('-inf'))
    b_keys = _ordered(b_maxima)  # [BLOCK_B / ROW, ROW]
    b_finite = tl.where(b_keys > _LOWEST, b_keys, 0x7FFFFFF0)
    lowest = tl.min(tl.reshape(b_finite, [BLOCK_B], can_reorder=True), 0)
    searched = tl.minimum(num_blocks, BLOCK_B)
    all_blocks = searched + 0.0  # all reach the lowest maximum
    if KEY_BLOCK == 1:
        _select(b_keys, lowest, all_blocks, topk, topk, p_indices, o_first, BLOCK_B // ROW, ROW)
    else:
        # The search ends sooner if more than k blocks are allowed, up to a power of two. The blocks
        # are passed on through memory.
        p_blocks += row * BLOCK_K
        most = BLOCK_K - (num_blocks - searched)
        chosen, threshold = _select(
            b_keys, lowest, all_blocks, topk, most, p_blocks, o_first, BLOCK_B // ROW, ROW
        )
        tl.debug_barrier()
        WIDTH: tl.constexpr = 4 if KEY_BLOCK > 4 else KEY_BLOCK
        PARTS: tl.constexpr = KEY_BLOCK // WIDTH  # of a block, of one load each
        o_part = tl.arange(0, BLOCK_K * PARTS)
        o_k = o_part // PARTS
        b_block = tl.load(p_blocks + o_k, mask=o_k < chosen, other=0)
        b_block = tl.where(o_k < chosen, b_block, searched + o_k - chosen)
        b_first = b_block * KEY_BLOCK + o_part % PARTS * WIDTH
        b_index = b_first[:, None] + tl.arange(0, WIDTH)[None, :]
        b_scores = tl.load(
            p_scores + b_index, mask=(b_first < num_tokens)[:, None], other=float('-inf')
        )
        b_keys = _ordered(b_scores)  # [BLOCK_K KEY_BLOCK / WIDTH, WIDTH]
        # The maxima that reach it, and some keys more: in a block a second one now and then.
        at_threshold = chosen * (1 + 0.5 * chosen / all_blocks)
        _select(
            b_keys, threshold, at_threshold, topk, topk, p_indices, b_first,
            BLOCK_K * PARTS, WIDTH,
        )  # fmt: skip
    if MARK:
        tl.debug_barrier()  # the indices are written, and no score is read any more
        o_k = tl.arange(0, BLOCK_K)
        b_index = tl.load(p_indices + o_k, mask=o_k < topk, other=0)
        tl.store(p_scores + b_index, float('-inf'), mask=o_k < topk)


@triton.jit
def merge_splits(
    o_m, head, p_part, p_part_sum, p_part_max, p_values, p_lse, splits, num_landmarks,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Weighted means of landmarks `o_m` [M], and log2 of their softmax sums, from all splits.

    Writes both, and returns them: the means [M, D] as they are written.
    """
    m_mask = o_m < num_landmarks
    o_s, o_d = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    b_row_max = tl.full(o_m.shape, float('-inf'), dtype=tl.float32)
    for first in range(0, splits, BLOCK_S):
        mask = (first + o_s < splits)[:, None] & m_mask[None, :]
        o_row = (head * splits + first + o_s)[:, None] * num_landmarks + o_m[None, :]  # [S, M]
        b_max = tl.load(p_part_max + o_row, mask=mask, other=float('-inf'))
        b_row_max = tl.maximum(b_row_max, tl.max(b_max, 0))
    b_row_sum = tl.zeros(o_m.shape, dtype=tl.float32)
    b_value = tl.zeros([o_m.shape[0], BLOCK_D], dtype=tl.float32)
    for first in range(0, splits, BLOCK_S):
        mask = (first + o_s < splits)[:, None] & m_mask[None, :]
        o_row = (head * splits + first + o_s)[:, None] * num_landmarks + o_m[None, :]
        b_max = tl.load(p_part_max + o_row, mask=mask, other=float('-inf'))
        b_factor = tl.where(mask, tl.exp2(b_max - b_row_max[None, :]), 0.0)  # [S, M]
        b_sum = tl.load(p_part_sum + o_row, mask=mask, other=0.0)
        b_row_sum += tl.sum(b_sum * b_factor, 0)
        b_part = tl.load(
            p_part + o_row[:, :, None] * D + o_d[None, None, :],
            mask=mask[:, :, None] & (o_d < D)[None, None, :], other=0.0,
        )  # [S, M, D]  # fmt: skip
        b_value += tl.sum(b_part * b_factor[:, :, None], 0)
    b_value = (b_value / b_row_sum[:, None]).to(p_values.dtype.element_ty)
    b_lse = b_row_max.to(p_lse.dtype.element_ty) + tl.log2(b_row_sum)
    o_row = head * num_landmarks + o_m
    _store_rows(p_values, b_value, o_row, D, 1, m_mask, D, BLOCK_D)
    tl.store(p_lse + o_row, b_lse, mask=m_mask)
    return b_value, b_lse


@triton.jit
def _place_routes(
    block, blocks, head, p_route_expert, p_route_rank, p_counts, p_route_of_slot, p_tiles,
    p_first_tile,
    num_routes, num_landmarks, chunks, routes_per_chunk, num_tiles,
    TILE_HEIGHT: tl.constexpr, ALL_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Routes sorted by expert, in tiles of one expert each: the second half of a counting sort.

    The tiles of an expert follow each other. Only its last one is partly filled, and an expert
    without routes has one empty tile. There are as many tiles as the worst case needs, so that
    shapes do not depend on the data; the number in use comes after the last one. Writes
    route_of_slot [B H, tiles * TILE_HEIGHT], tiles [B H, tiles + 1] and first_tile [B H, m], as in
    State.
    """
    o_m, o_c = tl.arange(0, ALL_M), tl.arange(0, BLOCK_C)
    p_tiles += head * (num_tiles + 1)
    m_mask = o_m < num_landmarks
    chunk = tl.minimum(block * BLOCK_R // routes_per_chunk, chunks - 1)
    p_counts += head * chunks * num_landmarks
    b_count = tl.zeros([ALL_M], dtype=tl.int32)  # routes to each expert
    b_before = tl.zeros([ALL_M], dtype=tl.int32)  # those in chunks before this one
    for first in range(0, chunks, BLOCK_C):
        o_chunk = first + o_c
        mask = (o_chunk < chunks)[:, None] & m_mask[None, :]
        o_count = o_chunk[:, None] * num_landmarks + o_m[None, :]
        b_counts = tl.load(p_counts + o_count, mask=mask, other=0)  # [C, M]
        b_count += tl.sum(b_counts, 0)
        b_before += tl.sum(tl.where((o_chunk < chunk)[:, None], b_counts, 0), 0)
    b_tiles = tl.where(m_mask, tl.maximum((b_count + TILE_HEIGHT - 1) // TILE_HEIGHT, 1), 0)
    b_end = tl.cumsum(b_tiles, 0)  # [M], the tile after the expert's last
    b_first = b_end - b_tiles

    for first in tl.static_range(0, BLOCK_R, BLOCK_G):
        o_route = block * BLOCK_R + first + tl.arange(0, BLOCK_G)
        mask = o_route < num_routes
        b_expert = tl.load(p_route_expert + head * num_routes + o_route, mask=mask, other=0)
        b_rank = tl.load(p_route_rank + head * num_routes + o_route, mask=mask, other=0)
        b_slot = tl.gather(b_first * TILE_HEIGHT + b_before, b_expert, 0) + b_rank
        tl.store(p_route_of_slot + head * num_tiles * TILE_HEIGHT + b_slot, o_route, mask=mask)

    for first in range(block * BLOCK_T, num_tiles, blocks * BLOCK_T):
        o_t = first + tl.arange(0, BLOCK_T)
        own = (b_first[None, :] <= o_t[:, None]) & (o_t[:, None] < b_end[None, :])  # [T, M]
        b_left = b_count[None, :] - (o_t[:, None] - b_first[None, :]) * TILE_HEIGHT
        b_tile = o_m[None, :] * 256 + tl.minimum(b_left, TILE_HEIGHT)
        b_tile = tl.sum(tl.where(own, b_tile, 0), 1)
        tl.store(p_tiles + o_t, b_tile, mask=o_t < num_tiles)
    if block == 0:
        tl.store(p_tiles + num_tiles, tl.sum(b_tiles, 0))
        tl.store(p_first_tile + head * num_landmarks + o_m, b_first, mask=m_mask)


@triton.jit
def _topk_and_sort_kernel(
    p_scores, p_maxima, p_blocks, p_indices, p_part, p_part_sum, p_part_max, p_values, p_lse,
    p_route_expert, p_route_rank, p_counts, p_route_of_slot, p_tiles, p_first_tile,
    s_scores, s_maxima, all_heads, num_tokens, num_blocks, topk, splits, num_landmarks,
    num_routes, chunks, routes_per_chunk, num_tiles, select_programs, place_programs,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_M: tl.constexpr,
    KEY_BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr, FULL: tl.constexpr,
    TILE_HEIGHT: tl.constexpr, ALL_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_T: tl.constexpr,
    ROUTED: tl.constexpr, SHARED: tl.constexpr, MARK: tl.constexpr,
):  # fmt: skip
    """Grid (m programs that select, some that place routes, some that merge; each times B H).

    Writes indices [B H, m, k], the tiles (see `_place_routes`) and shared values [B H, m, D].
    """
    program, head = tl.program_id(0) // all_heads, (tl.program_id(0) % all_heads).to(tl.int64)
    if program < select_programs:
        if ROUTED:
            _select_keys(
                head * num_landmarks + program, p_scores, p_maxima, p_blocks, p_indices,
                s_scores, s_maxima, num_tokens, num_blocks, topk,
                KEY_BLOCK, BLOCK_K, BLOCK_B, FULL, MARK,
            )  # fmt: skip
    elif program < select_programs + place_programs:
        if ROUTED:
            _place_routes(
                program - select_programs, place_programs, head,
                p_route_expert, p_route_rank, p_counts, p_route_of_slot, p_tiles, p_first_tile,
                num_routes, num_landmarks, chunks, routes_per_chunk, num_tiles,
                TILE_HEIGHT, ALL_M, BLOCK_C, BLOCK_R, BLOCK_G, BLOCK_T,
            )  # fmt: skip
    elif SHARED:
        o_m = (program - select_programs - place_programs) * BLOCK_M + tl.arange(0, BLOCK_M)
        merge_splits(
            o_m, head, p_part, p_part_sum, p_part_max, p_values, p_lse,
            splits, num_landmarks, D, BLOCK_D, BLOCK_S,
        )  # fmt: skip


def topk_and_sort(
    plan: Plan, scored: Scored, state: State, options: MiTAOptions, blocks: Blocks
) -> None:
    """Writes the experts, the shared values and the tiles of a State.

    With a remainder the scores of each expert's keys are -inf afterwards.
    """
    topk, num_routed, shared = options.topk, options.num_routed, options.shared
    all_heads, num_tiles = state.tiles.shape[0], state.tiles.shape[1] - 1
    tokens, routed = state.lse.shape[1], topk > 0
    num_routes, num_blocks = tokens * num_routed, cdiv(tokens, blocks.key_block)
    num_landmarks, dim = state.indices.shape[1], state.values.shape[2]
    chunks = blocks.chunks
    chosen = scored.scores
    if routed and blocks.key_block > 1:
        chosen = plan.scratch(all_heads, num_landmarks, next_power_of_2(topk), dtype=torch.int32)
    # Every program reads the counts of all chunks: if they are many, half as many programs.
    block_routes = min((128 if chunks <= 16 else 256) * blocks.select_warps, blocks.chunk)
    place_programs = cdiv(num_routes, block_routes) if routed else 0
    select_programs = num_landmarks if routed else 0
    merged = choose_merge_blocks(blocks.splits)
    merge_programs = cdiv(num_landmarks, merged['BLOCK_M']) if shared else 0
    per_step = max(1, SELECT_SCORES * blocks.select_warps // blocks.all_landmarks)
    plan.launch(
        _topk_and_sort_kernel, ((select_programs + place_programs + merge_programs) * all_heads,),
        scored.scores, scored.maxima, chosen, state.indices,
        scored.part_values, scored.part_sum, scored.part_max, state.values,
        state.landmark_lse, scored.route_expert, scored.route_rank, scored.counts,
        state.route_of_slot, state.tiles, state.first_tile,
        scored.scores.shape[2], scored.maxima.shape[2],
        all_heads, tokens, num_blocks, topk, blocks.splits, num_landmarks,
        num_routes, chunks, blocks.chunk * num_routed, num_tiles,
        select_programs, place_programs,
        D=dim, BLOCK_D=blocks.dim, **merged,
        KEY_BLOCK=blocks.key_block, BLOCK_K=next_power_of_2(max(topk, 1)),
        BLOCK_B=blocks.searched, FULL=num_blocks >= blocks.searched, TILE_HEIGHT=blocks.tile_height,
        ALL_M=blocks.all_landmarks,
        BLOCK_C=min(per_step, next_power_of_2(max(chunks, 1))), BLOCK_R=block_routes,
        BLOCK_G=block_routes if _GATHERS_MORE else min(block_routes, blocks.all_landmarks),
        BLOCK_T=min(per_step, 64),
        ROUTED=routed, SHARED=shared, MARK=options.remainder, num_warps=blocks.select_warps,
    )  # fmt: skip
