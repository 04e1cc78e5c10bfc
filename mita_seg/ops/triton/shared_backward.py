"""Gradients of the shared expert: from the queries to the shared values and the landmarks.

`_shared_backward_kernel` reads q, o and do once and writes a partial sum for each split of the
queries, and delta = sum(do * o) of each query; `_reduce_shared_kernel` adds the partials up.
"""

import triton
import triton.language as tl


@triton.jit
def _shared_backward_kernel(
    p_query, p_grad, p_out, p_lse, p_delta, p_landmarks, p_values, p_part_values, p_part_landmarks,
    sq_b, sq_h, sq_n, sq_d, sg_b, sg_h, sg_n, sg_d, so_b, so_h, so_n, so_d,
    sl_b, sl_h, sl_m, sl_d,
    heads, num_tokens, num_landmarks, splits, tokens_per_split, scale_log2, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SHARED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    split, head = tl.program_id(0), tl.program_id(2).to(tl.int64)
    batch, local = head // heads, head % heads
    p_query += batch * sq_b + local * sq_h
    p_grad += batch * sg_b + local * sg_h
    p_out += batch * so_b + local * so_h
    p_landmarks += batch * sl_b + local * sl_h

    o_m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    o_d = tl.arange(0, BLOCK_D)
    m_mask, d_mask = o_m < num_landmarks, o_d < D
    md_mask = m_mask[:, None] & d_mask[None, :]
    if SHARED:
        p_landmark_rows = p_landmarks + o_m[:, None] * sl_m + o_d[None, :] * sl_d
        b_landmarks = tl.load(p_landmark_rows, mask=md_mask, other=0.0)  # [M, D]
        p_value_rows = p_values + (head * num_landmarks + o_m)[:, None] * D + o_d[None, :]
        b_values = tl.load(p_value_rows, mask=md_mask, other=0.0)  # [M, D]
        b_grad_values = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
        b_grad_landmarks = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)

    begin = split * tokens_per_split
    for first in range(begin, min(begin + tokens_per_split, num_tokens), BLOCK_N):
        o_n = first + tl.arange(0, BLOCK_N)
        n_mask = o_n < num_tokens
        o_n64 = o_n.to(tl.int64)[:, None]
        mask = n_mask[:, None] & d_mask[None, :]
        b_grad = tl.load(p_grad + o_n64 * sg_n + o_d[None, :] * sg_d, mask=mask, other=0.0)
        b_out = tl.load(p_out + o_n64 * so_n + o_d[None, :] * so_d, mask=mask, other=0.0)
        b_delta = tl.sum(b_grad.to(tl.float32) * b_out.to(tl.float32), 1)  # [N]
        if tl.program_id(1) == 0:
            tl.store(p_delta + head * num_tokens + o_n, b_delta, mask=n_mask)
        if SHARED:
            p_rows = p_query + o_n64 * sq_n + o_d[None, :] * sq_d
            b_query = tl.load(p_rows, mask=mask, other=0.0)
            b_lse = tl.load(p_lse + head * num_tokens + o_n, mask=n_mask, other=0.0)
            b_logits = tl.dot(b_query, tl.trans(b_landmarks), input_precision=PRECISION)
            b_weights = tl.exp2(b_logits * scale_log2 - b_lse[:, None])
            b_weights = tl.where(n_mask[:, None] & m_mask[None, :], b_weights, 0.0)  # [N, M]
            b_inner = tl.dot(b_grad, tl.trans(b_values), input_precision=PRECISION)
            b_grad_logits = b_weights * (b_inner - b_delta[:, None])
            b_grad_values += tl.dot(
                tl.trans(b_weights.to(b_grad.dtype)), b_grad, input_precision=PRECISION
            )
            b_grad_landmarks += tl.dot(
                tl.trans(b_grad_logits.to(b_query.dtype)), b_query, input_precision=PRECISION
            )

    if SHARED:
        o_part = ((head * splits + split) * num_landmarks + o_m)[:, None] * D + o_d[None, :]
        tl.store(p_part_values + o_part, b_grad_values, mask=md_mask)
        tl.store(p_part_landmarks + o_part, b_grad_landmarks * scale, mask=md_mask)


@triton.jit
def _reduce_shared_kernel(
    p_part_values, p_part_landmarks, p_values, p_grad_values, p_value_delta, p_grad_landmarks,
    num_landmarks, splits,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    landmark, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o_d = tl.arange(0, BLOCK_D)
    d_mask = o_d < D
    b_values = tl.zeros([BLOCK_D], dtype=tl.float32)
    b_landmarks = tl.zeros([BLOCK_D], dtype=tl.float32)
    for first in range(0, splits, BLOCK_S):
        o_s = first + tl.arange(0, BLOCK_S)
        o_part = ((head * splits + o_s) * num_landmarks + landmark)[:, None] * D + o_d[None, :]
        mask = (o_s < splits)[:, None] & d_mask[None, :]
        b_values += tl.sum(tl.load(p_part_values + o_part, mask=mask, other=0.0), 0)
        b_landmarks += tl.sum(tl.load(p_part_landmarks + o_part, mask=mask, other=0.0), 0)
    row = head * num_landmarks + landmark
    b_shared = tl.load(p_values + row * D + o_d, mask=d_mask, other=0.0)
    tl.store(p_value_delta + row, tl.sum(b_values * b_shared.to(tl.float32), 0))
    p_out = p_grad_values + row * D + o_d
    tl.store(p_out, b_values.to(p_out.dtype.element_ty), mask=d_mask)
    tl.store(p_grad_landmarks + row * D + o_d, b_landmarks, mask=d_mask)
