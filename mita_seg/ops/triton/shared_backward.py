"""Gradients through the shared expert, from queries in natural order.

Reads q, o and do once; writes delta = sum(do * o) of each query and, for each split of the queries,
a partial sum for the landmarks and their values. Where one block holds all landmarks it also writes
their part of dq.
"""

import triton
import triton.language as tl

from .steps import _backward_step, _dot, _load_rows, _store_rows


@triton.jit
def _shared_backward_kernel(
    p_query, p_grad, p_out, p_lse, p_delta, p_landmarks, p_values,
    p_part_values, p_part_landmarks, p_grad_query,
    sq_b, sq_h, sq_n, sq_d, sg_b, sg_h, sg_n, sg_d, so_b, so_h, so_n, so_d,
    sl_b, sl_h, sl_m, sl_d, sx_b, sx_h, sx_n, sx_d,
    heads, num_tokens, num_landmarks, splits, tokens_per_split, scale_log2, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_Q: tl.constexpr,
    SHARED: tl.constexpr, WITH_QUERY: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    split, landmark_block = tl.program_id(0), tl.program_id(1)
    head = tl.program_id(2).to(tl.int64)
    batch, local = head // heads, head % heads
    p_query += batch * sq_b + local * sq_h
    p_grad += batch * sg_b + local * sg_h
    p_out += batch * so_b + local * so_h
    p_landmarks += batch * sl_b + local * sl_h
    p_grad_query += batch * sx_b + local * sx_h

    o_m = landmark_block * BLOCK_M + tl.arange(0, BLOCK_M)
    m_mask = o_m < num_landmarks
    if SHARED:
        b_landmarks = _load_rows(p_landmarks, o_m, sl_m, sl_d, m_mask, D, BLOCK_D)  # [M, D]
        p_values += head * num_landmarks * D
        b_values = _load_rows(p_values, o_m, D, 1, m_mask, D, BLOCK_D)  # [M, D]
        b_grad_values = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
        b_grad_landmarks = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)

    begin = split * tokens_per_split
    end = min(begin + tokens_per_split, num_tokens)
    for first in tl.range(begin, end, BLOCK_Q, num_stages=STAGES):
        o_n = first + tl.arange(0, BLOCK_Q)
        n_mask = None if EVEN else o_n < num_tokens
        b_grad = _load_rows(p_grad, o_n, sg_n, sg_d, n_mask, D, BLOCK_D, WIDE)  # [Q, D]
        b_out = _load_rows(p_out, o_n, so_n, so_d, n_mask, D, BLOCK_D, WIDE)  # [Q, D]
        b_delta = tl.sum(b_grad.to(tl.float32) * b_out.to(tl.float32), 1)  # [Q]
        if landmark_block == 0:
            tl.store(p_delta + head * num_tokens + o_n, b_delta, mask=n_mask)
        if SHARED:
            b_query = _load_rows(p_query, o_n, sq_n, sq_d, n_mask, D, BLOCK_D, WIDE)  # [Q, D]
            if EVEN:
                b_lse = tl.load(p_lse + head * num_tokens + o_n)
            else:
                b_lse = tl.load(p_lse + head * num_tokens + o_n, mask=n_mask, other=0.0)
            b_grad_landmarks, b_grad_values, b_grad_logits = _backward_step(
                b_query, b_grad, b_lse, b_delta, b_landmarks, b_values,
                m_mask, scale_log2, b_grad_landmarks, b_grad_values, PRECISION,
            )  # fmt: skip
            if WITH_QUERY:
                b_grad_query = _dot(tl.trans(b_grad_logits), b_landmarks, None, PRECISION)  # [Q, D]
                _store_rows(
                    p_grad_query, b_grad_query * scale, o_n, sx_n, sx_d, n_mask, D, BLOCK_D, WIDE
                )

    if SHARED:
        o_part = (head * splits + split) * num_landmarks + o_m
        _store_rows(p_part_values, b_grad_values, o_part, D, 1, m_mask, D, BLOCK_D)
        _store_rows(p_part_landmarks, b_grad_landmarks * scale, o_part, D, 1, m_mask, D, BLOCK_D)
