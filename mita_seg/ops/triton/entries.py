"""Where the gradients of each expert's keys go: entries sorted by blocks of keys.

An entry is a key of an expert. The entries of a block of keys follow each other, expert by expert,
so that whoever adds them up reads one range; since the indices of an expert ascend, its entries
within a block are found by binary search.
"""

import triton
import triton.language as tl


@triton.jit
def _count_below(p_indices, o_key, mask, topk, STEPS: tl.constexpr):
    """How many of the ascending indices [.., k] are below `o_key`; all [B, M]."""
    b_low = tl.zeros_like(o_key)
    b_high = tl.where(mask, topk, 0)
    for _ in range(STEPS):
        b_middle = (b_low + b_high) // 2
        open_ = b_low < b_high
        below = tl.load(p_indices + b_middle, mask=open_, other=0) < o_key
        b_low = tl.where(open_ & below, b_middle + 1, b_low)
        b_high = tl.where(open_ & (below == 0), b_middle, b_high)
    return b_low


@triton.jit
def _place_entries(
    program, head, p_indices, p_shift, p_start, num_landmarks, topk, num_blocks,
    KEYS: tl.constexpr, STEPS: tl.constexpr, BLOCK_B: tl.constexpr, ALL_M: tl.constexpr,
):  # fmt: skip
    """shift [B H, blocks, m]: position of an expert's r-th key, if in this block, less r.

    start [B H, blocks + 1]: position of the first entry of each block.
    """
    o_b = program * BLOCK_B + tl.arange(0, BLOCK_B)
    o_m = tl.arange(0, ALL_M)
    mask = (o_b < num_blocks)[:, None] & (o_m < num_landmarks)[None, :]
    p_rows = p_indices + head * num_landmarks * topk + o_m[None, :] * topk
    o_key = o_b[:, None] * KEYS + tl.zeros_like(o_m)[None, :]
    b_low = _count_below(p_rows, o_key, mask, topk, STEPS)  # [B, M]
    b_high = _count_below(p_rows, o_key + KEYS, mask, topk, STEPS)
    b_start = tl.sum(b_low, 1)  # [B]
    b_before = tl.cumsum(b_high - b_low, 1) - (b_high - b_low)  # of experts before, in the block
    o_out = (head * num_blocks + o_b)[:, None] * num_landmarks + o_m[None, :]
    tl.store(p_shift + o_out, b_start[:, None] + b_before - b_low, mask=mask)
    p_start += head * (num_blocks + 1)
    tl.store(p_start + o_b, b_start, mask=o_b < num_blocks)
    tl.store(p_start + o_b + 1, tl.sum(b_high, 1), mask=o_b == num_blocks - 1)
