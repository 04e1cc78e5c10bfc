"""Landmark scores S = L K^T, maxima of blocks of keys, and the shared values in split-N partials.

Reads k and v once; writes S (float32, 4 m bytes a token) and a few rows a split.
"""

import triton
import triton.language as tl

from .steps import _dot, _load_rows, _logits, _scaled_sum, _store_rows


@triton.jit
def _score_keys(
    split, landmark_block, head,
    p_key, p_value, p_landmarks, p_scores, p_maxima, p_part, p_part_total, p_part_peak,
    sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d, sl_b, sl_h, sl_m, sl_d,
    heads, num_tokens, num_blocks, splits, tokens_per_split, scale_log2,
    num_landmarks: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    KEY_BLOCK: tl.constexpr, SELECT: tl.constexpr, SHARED: tl.constexpr, PRECISION: tl.constexpr,
    STAGES: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    batch, local = head // heads, head % heads
    p_key += batch * sk_b + local * sk_h
    p_value += batch * sv_b + local * sv_h
    p_landmarks += batch * sl_b + local * sl_h
    p_scores += head * num_landmarks * num_tokens
    p_maxima += head * num_landmarks * num_blocks

    o_m = landmark_block * BLOCK_M + tl.arange(0, BLOCK_M)
    m_mask = o_m < num_landmarks
    b_landmarks = _load_rows(p_landmarks, o_m, sl_m, sl_d, m_mask, D, BLOCK_D)  # [M, D]
    b_peak = tl.full([BLOCK_M], float('-inf'), dtype=tl.float32)
    b_total = tl.zeros([BLOCK_M], dtype=tl.float32)
    b_out = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    begin = split * tokens_per_split
    end = min(begin + tokens_per_split, num_tokens)
    for first in tl.range(begin, end, BLOCK_N, num_stages=STAGES):
        o_n = first + tl.arange(0, BLOCK_N)
        n_mask = None if EVEN else o_n < num_tokens
        b_key = _load_rows(p_key, o_n, sk_n, sk_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
        b_scores = _dot(b_landmarks, tl.trans(b_key), None, PRECISION)  # [M, N]
        if SELECT:
            p_row = p_scores + o_m.to(tl.int64)[:, None] * num_tokens + o_n[None, :]
            if EVEN:
                tl.store(p_row, b_scores, mask=m_mask[:, None])
            else:
                tl.store(p_row, b_scores, mask=m_mask[:, None] & n_mask[None, :])
        if not EVEN:
            b_scores = tl.where(n_mask[None, :], b_scores, float('-inf'))
        if SELECT and KEY_BLOCK > 1:
            b_blocks = tl.reshape(b_scores, [BLOCK_M, BLOCK_N // KEY_BLOCK, KEY_BLOCK])
            b_maxima = tl.max(b_blocks, 2)  # [M, N / KEY_BLOCK]
            o_b = first // KEY_BLOCK + tl.arange(0, BLOCK_N // KEY_BLOCK)
            p_row_maxima = p_maxima + o_m.to(tl.int64)[:, None] * num_blocks + o_b[None, :]
            tl.store(p_row_maxima, b_maxima, mask=m_mask[:, None] & (o_b < num_blocks)[None, :])
        if SHARED:
            b_value = _load_rows(p_value, o_n, sv_n, sv_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
            b_new = tl.maximum(b_peak, tl.max(b_scores, 1) * scale_log2)
            b_logits = _logits(b_scores, scale_log2, PRECISION)
            b_weights = tl.exp2((b_logits - b_new[:, None]).to(tl.float32))  # [M, N]
            b_shrink = tl.exp2(b_peak - b_new)
            b_total = b_total * b_shrink + tl.sum(b_weights, 1)
            b_product = _dot(b_weights.to(b_value.dtype), b_value, None, PRECISION)  # [M, D]
            b_out = _scaled_sum(b_out, b_shrink[:, None], b_product)
            b_peak = b_new

    if SHARED:
        o_row = (head * splits + split) * num_landmarks + o_m
        _store_rows(p_part, b_out, o_row, D, 1, m_mask, D, BLOCK_D)
        tl.store(p_part_total + o_row, b_total, mask=m_mask)
        tl.store(p_part_peak + o_row, b_peak, mask=m_mask)
