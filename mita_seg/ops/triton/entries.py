"""Where the gradients of each expert's keys go: entries sorted by blocks of keys.

An entry is a key of an expert, or of a segment of it: the tiles of the experts are shared out
evenly, and an expert whose tiles go to several programs has an entry of each key from each of them.
The entries of a block of keys follow each other, expert by expert, so that whoever adds them up
reads one range; since the indices of an expert ascend, its entries within a block are found by
binary search.
"""

import triton
import triton.language as tl


@triton.jit
def _program_of_tile(tile, tiles, programs):
    """Which program has this tile; program p begins at tile p tiles // programs."""
    return ((tile + 1) * programs - 1) // tiles


@triton.jit
def _search_step(p_indices, o_key, b_low, b_high):
    """Halves the ranges [low, high] of how many of the ascending indices are below `o_key`."""
    b_middle = (b_low + b_high) // 2
    open_ = b_low < b_high
    below = tl.load(p_indices + b_middle, mask=open_, other=0) < o_key
    b_low = tl.where(open_ & below, b_middle + 1, b_low)
    b_high = tl.where(open_ & (below == 0), b_middle, b_high)
    return b_low, b_high


@triton.jit
def _place_entries(
    program, head, p_indices, p_tiles, p_first_tile, p_shift, p_start,
    num_landmarks, topk, num_blocks, num_tiles, expert_programs,
    KEYS: tl.constexpr, STEPS: tl.constexpr, BLOCK_B: tl.constexpr, ALL_M: tl.constexpr,
):  # fmt: skip
    """shift [B H, blocks, m]: position of an expert's r-th key, if in this block, less r.

    With it comes how many keys the block has of the expert: position times 128 plus the number. The
    next segment's entries follow after as many. start [B H, blocks + 1]: position of the first
    entry of each block.
    """
    o_b = program * BLOCK_B + tl.arange(0, BLOCK_B)
    o_m = tl.arange(0, ALL_M)
    mask = (o_b < num_blocks)[:, None] & (o_m < num_landmarks)[None, :]
    p_rows = p_indices + head * num_landmarks * topk + o_m[None, :] * topk
    o_key = o_b[:, None] * KEYS + tl.zeros_like(o_m)[None, :]
    # Of the indices of each expert, those before the block and those before its end [B, M]; both
    # searches go on at once, as each step waits for the one before.
    b_before = tl.zeros_like(o_key)
    b_until = tl.zeros_like(o_key)
    b_before_high = tl.where(mask, topk, 0)
    b_until_high = b_before_high
    for _ in range(STEPS):
        b_before, b_before_high = _search_step(p_rows, o_key, b_before, b_before_high)
        b_until, b_until_high = _search_step(p_rows, o_key + KEYS, b_until, b_until_high)
    used = tl.load(p_tiles + head * (num_tiles + 1) + num_tiles)
    p_first_tile += head * num_landmarks + o_m
    b_first = tl.load(p_first_tile, mask=o_m < num_landmarks, other=0)
    b_next = tl.load(p_first_tile + 1, mask=o_m + 1 < num_landmarks, other=0)
    b_last = tl.where(o_m + 1 < num_landmarks, b_next, used) - 1
    b_segments = _program_of_tile(b_last, used, expert_programs)
    b_segments += 1 - _program_of_tile(b_first, used, expert_programs)  # [M]

    b_start = tl.sum(b_before * b_segments[None, :], 1)  # [B]
    b_count = b_until - b_before
    b_entries = b_count * b_segments[None, :]
    b_others = tl.cumsum(b_entries, 1) - b_entries  # of experts before this one, in the block
    b_shift = b_start[:, None] + b_others - b_before
    o_out = (head * num_blocks + o_b)[:, None] * num_landmarks + o_m[None, :]
    tl.store(p_shift + o_out, b_shift * 128 + b_count, mask=mask)
    p_start += head * (num_blocks + 1)
    tl.store(p_start + o_b, b_start, mask=o_b < num_blocks)
    b_end = b_start + tl.sum(b_entries, 1)
    tl.store(p_start + o_b + 1, b_end, mask=o_b == num_blocks - 1)
