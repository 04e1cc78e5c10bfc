"""Exact top-k keys of each landmark, and its shared value merged from the split-N partials.

One program a landmark. The threshold, the k-th largest score, is found bit by bit on integers in
the order of the scores; of equal scores the lowest indices are kept. With block maxima, the k
blocks that hold the top-k entries are selected first, then the entries themselves.
"""

import triton
import triton.language as tl


@triton.jit
def _ordered(b_scores):
    """float32 -> int32 in the same order; -0.0 equals 0.0."""
    bits = (b_scores + 0.0).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _largest(b_keys, count):
    """Mask of the `count` largest of b_keys [SIZE]; of equal keys the first."""
    threshold = tl.full([], -2147483648, dtype=tl.int32)
    for i in tl.static_range(32):
        bit = 1 << (31 - i) if i else -2147483648
        candidate = threshold ^ bit
        enough = tl.sum((b_keys >= candidate).to(tl.int32), 0) >= count
        threshold = tl.where(enough, candidate, threshold)
    above = b_keys > threshold
    tied = b_keys == threshold
    wanted = count - tl.sum(above.to(tl.int32), 0)
    return above | (tied & (tl.cumsum(tied.to(tl.int32), 0) <= wanted))


@triton.jit
def _select_kernel(
    p_scores, p_maxima, p_experts, p_part, p_part_total, p_part_peak, p_values, p_lse,
    num_tokens, num_blocks, topk, splits, num_landmarks,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, KEY_BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr, SELECT: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    landmark, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row = head * num_landmarks + landmark

    if SHARED:
        o_s, o_d = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
        s_mask, d_mask = o_s < splits, o_d < D
        o_row = (head * splits + o_s) * num_landmarks + landmark
        b_peak = tl.load(p_part_peak + o_row, mask=s_mask, other=float('-inf'))
        b_total = tl.load(p_part_total + o_row, mask=s_mask, other=0.0)
        peak = tl.max(b_peak, 0)
        b_factor = tl.exp2(b_peak - peak)  # [S]
        total = tl.sum(b_total * b_factor, 0)
        p_rows = p_part + o_row[:, None] * D + o_d[None, :]
        b_part = tl.load(p_rows, mask=s_mask[:, None] & d_mask[None, :], other=0.0)  # [S, D]
        b_value = tl.sum(b_part * b_factor[:, None], 0) / total
        p_out = p_values + row * D + o_d
        tl.store(p_out, b_value.to(p_out.dtype.element_ty), mask=d_mask)
        tl.store(p_lse + row, peak + tl.log2(total))

    if SELECT:
        p_scores += row * num_tokens
        p_experts += row * topk
        o_b = tl.arange(0, BLOCK_B)
        if KEY_BLOCK == 1:
            b_index = o_b
        else:
            p_maxima += row * num_blocks
            b_maxima = tl.load(p_maxima + o_b, mask=o_b < num_blocks, other=float('-inf'))
            chosen = _largest(tl.where(o_b < num_blocks, _ordered(b_maxima), -2147483648), topk)
            chosen = chosen & (o_b < num_blocks)
            # Passed on through memory, in place of the result.
            tl.store(p_experts + tl.cumsum(chosen.to(tl.int32), 0) - 1, o_b, mask=chosen)
            tl.debug_barrier()
            o_k = tl.arange(0, BLOCK_K)
            b_block = tl.load(p_experts + o_k, mask=o_k < topk, other=num_blocks)
            tl.debug_barrier()
            b_index = b_block[:, None] * KEY_BLOCK + tl.arange(0, KEY_BLOCK)[None, :]
            b_index = tl.reshape(b_index, [BLOCK_K * KEY_BLOCK])
        valid = b_index < num_tokens
        b_scores = tl.load(p_scores + b_index, mask=valid, other=float('-inf'))
        b_keys = tl.where(valid, _ordered(b_scores), -2147483648)
        chosen = _largest(b_keys, topk) & valid
        tl.store(p_experts + tl.cumsum(chosen.to(tl.int32), 0) - 1, b_index, mask=chosen)
