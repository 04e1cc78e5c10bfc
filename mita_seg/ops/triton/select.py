"""Exact top-k keys of each landmark, and its shared value merged from the split-N partials.

The threshold, the k-th largest score, is found by bisection on integers in the order of the scores;
of equal scores the lowest indices are kept. With block maxima, the k blocks that hold the top-k
entries are selected first, then the entries themselves.
"""

import triton
import triton.language as tl

from .steps import _load_rows

_LOWEST = tl.constexpr(-2147483648)  # below every score: marks what is absent


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
def _threshold(b_keys, low, count):
    """Largest key that at least `count` of b_keys reach, or one below it that exactly `count` do.

    `low` is reached by at least `count`.
    """
    high = tl.max(b_keys, 0) + 1
    reached = tl.sum((b_keys >= low).to(tl.int32), 0)
    step = 0
    while (reached != count) & (low + 1 < high):
        # Halving the distance in scores is quicker, in integers it surely ends.
        middle = _ordered((_unordered(low) + _unordered(high)) * 0.5)
        middle = tl.where(step < 20, middle, (low >> 1) + (high >> 1) + (low & high & 1))
        middle = tl.minimum(tl.maximum(middle, low + 1), high - 1)
        above = tl.sum((b_keys >= middle).to(tl.int32), 0)
        enough = above >= count
        low, reached = tl.where(enough, middle, low), tl.where(enough, above, reached)
        high = tl.where(enough, high, middle)
        step += 1
    return low


@triton.jit
def _largest(b_keys, threshold, count):
    """Mask of the `count` largest of b_keys [SIZE]; of equal keys the first."""
    chosen = (b_keys >= threshold).to(tl.int1)
    if tl.sum(chosen.to(tl.int32), 0) != count:
        above = b_keys > threshold
        tied = b_keys == threshold
        wanted = count - tl.sum(above.to(tl.int32), 0)
        chosen = above | (tied & (tl.cumsum(tied.to(tl.int32), 0) <= wanted))
    return chosen


@triton.jit
def _select_keys(row, p_scores, p_maxima, p_indices, num_tokens, num_blocks, topk,
    KEY_BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Indices of the top-k keys of landmark `row` of all heads, ascending."""
    p_scores += row * num_tokens
    p_indices += row * topk
    o_b = tl.arange(0, BLOCK_B)
    if KEY_BLOCK == 1:
        b_index = o_b
        valid = b_index < num_tokens
        b_scores = tl.load(p_scores + b_index, mask=valid, other=0.0)
        low = tl.min(tl.where(valid, _ordered(b_scores), 0x7FFFFFF0), 0)
    else:
        b_mask = o_b < num_blocks
        b_maxima = tl.load(p_maxima + row * num_blocks + o_b, mask=b_mask, other=0.0)
        b_keys = _ordered(b_maxima)
        low = tl.min(tl.where(b_mask, b_keys, 0x7FFFFFF0), 0)
        b_keys = tl.where(b_mask, b_keys, _LOWEST)
        # At least k keys reach the k-th largest maximum: the second bisection starts there.
        low = _threshold(b_keys, low, topk)
        chosen = _largest(b_keys, low, topk) & b_mask
        # Passed on through memory, in place of the result.
        tl.store(p_indices + tl.cumsum(chosen.to(tl.int32), 0) - 1, o_b, mask=chosen)
        tl.debug_barrier()
        o_k = tl.arange(0, BLOCK_K)
        b_block = tl.load(p_indices + o_k, mask=o_k < topk, other=num_blocks)
        tl.debug_barrier()
        b_index = b_block[:, None] * KEY_BLOCK + tl.arange(0, KEY_BLOCK)[None, :]
        b_index = tl.reshape(b_index, [BLOCK_K * KEY_BLOCK])
        valid = b_index < num_tokens
        b_scores = tl.load(p_scores + b_index, mask=valid, other=0.0)
    b_keys = tl.where(valid, _ordered(b_scores), _LOWEST)
    chosen = _largest(b_keys, _threshold(b_keys, low, topk), topk) & valid
    tl.store(p_indices + tl.cumsum(chosen.to(tl.int32), 0) - 1, b_index, mask=chosen)


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
    tl.store(p_lse + row, peak + tl.log2(total))
