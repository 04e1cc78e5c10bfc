"""Gradient of the landmarks through the shared values, where they need several blocks.

Reads k and v once a block of landmarks and writes a partial sum for each split of the keys.
"""

import triton
import triton.language as tl

from .key_backward import _shared_value_step
from .steps import _dot, _load_rows, _scaled_sum, _store_rows


@triton.jit
def _landmark_backward_kernel(
    p_key, p_value, p_landmarks, p_landmark_lse, p_grad_values, p_value_delta, p_part_landmarks,
    sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d, sl_b, sl_h, sl_m, sl_d,
    heads, num_tokens, num_landmarks, splits, tokens_per_split, scale_log2, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    split, head = tl.program_id(0), tl.program_id(2).to(tl.int64)
    batch, local = head // heads, head % heads
    p_key += batch * sk_b + local * sk_h
    p_value += batch * sv_b + local * sv_h
    p_landmarks += batch * sl_b + local * sl_h
    o_m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_mask = o_m < num_landmarks
    o_row = head * num_landmarks + o_m
    b_landmarks = _load_rows(p_landmarks, o_m, sl_m, sl_d, m_mask, D, BLOCK_D)  # [M, D]
    b_grad_shared = _load_rows(p_grad_values, o_row, D, 1, m_mask, D, BLOCK_D)  # [M, D]
    b_lse = tl.load(p_landmark_lse + o_row, mask=m_mask, other=0.0)
    b_delta = tl.load(p_value_delta + o_row, mask=m_mask, other=0.0)
    b_sum = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    begin = split * tokens_per_split
    end = min(begin + tokens_per_split, num_tokens)
    for first in tl.range(begin, end, BLOCK_N, num_stages=STAGES):
        o_n = first + tl.arange(0, BLOCK_N)
        n_mask = None if EVEN else o_n < num_tokens
        b_key = _load_rows(p_key, o_n, sk_n, sk_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
        b_value = _load_rows(p_value, o_n, sv_n, sv_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
        _, b_grad_scores = _shared_value_step(
            b_key, b_value, b_landmarks, b_grad_shared, b_lse, b_delta,
            n_mask, scale_log2, PRECISION,
        )  # fmt: skip
        b_product = _dot(tl.trans(b_grad_scores), b_key, None, PRECISION)  # [M, D]
        b_sum = _scaled_sum(b_product, tl.full([1, 1], scale, dtype=tl.float32), b_sum)
    o_part = (head * splits + split) * num_landmarks + o_m
    _store_rows(p_part_landmarks, b_sum, o_part, D, 1, m_mask, D, BLOCK_D)
