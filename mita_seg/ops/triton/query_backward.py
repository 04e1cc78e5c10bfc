"""Gradient of the queries, tile by tile: from the shared and from the routed expert.

Reads q and do once and writes dq once; the rows of the experts come from the L2 cache.
"""

import triton
import triton.language as tl


@triton.jit
def _grad_query_step(
    b_query, b_grad, b_lse, b_delta, b_key, b_value, present, scale_log2, scale,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """What keys and values [K, D] add to dq [Q, D]; `present` [Q, K]."""
    b_logits = tl.dot(b_query, tl.trans(b_key), input_precision=PRECISION)
    b_weights = tl.where(present, tl.exp2(b_logits * scale_log2 - b_lse[:, None]), 0.0)
    b_inner = tl.dot(b_grad, tl.trans(b_value), input_precision=PRECISION)
    b_grad_logits = (b_weights * (b_inner - b_delta[:, None]) * scale).to(b_key.dtype)
    return tl.dot(b_grad_logits, b_key, input_precision=PRECISION)


@triton.jit
def _query_backward_kernel(
    p_query, p_key, p_value, p_landmarks, p_landmark_values, p_experts, p_grad, p_lse, p_delta,
    p_row_of_slot, p_tile_expert, p_tile_rows, p_grad_query,
    sq_b, sq_h, sq_n, sq_d, sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d,
    sl_b, sl_h, sl_m, sl_d, sg_b, sg_h, sg_n, sg_d, sx_b, sx_h, sx_n, sx_d,
    heads, num_tokens, num_landmarks, topk, num_routed, num_tiles, num_rows,
    scale_log2, scale, landmark_scale_log2, landmark_scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, HEIGHT: tl.constexpr, BLOCK_K: tl.constexpr,
    SHARED: tl.constexpr, ROUTED: tl.constexpr, PARTIAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, local = head // heads, head % heads
    o_q, o_d, o_k = tl.arange(0, HEIGHT), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_K)
    d_mask = o_d < D
    if ROUTED:
        rows = tl.load(p_tile_rows + head * num_tiles + tile)
        if rows == 0:
            return
        expert = tl.load(p_tile_expert + head * num_tiles + tile)
        q_mask = o_q < rows
        p_slots = p_row_of_slot + (head * num_tiles + tile) * HEIGHT
        o_row = tl.load(p_slots + o_q, mask=q_mask, other=0)
    else:
        o_row = tile * HEIGHT + o_q
        q_mask = o_row < num_rows
    o_n = (o_row // num_routed).to(tl.int64)

    qd_mask = q_mask[:, None] & d_mask[None, :]
    p_query += batch * sq_b + local * sq_h
    p_query_rows = p_query + o_n[:, None] * sq_n + o_d[None, :] * sq_d
    b_query = tl.load(p_query_rows, mask=qd_mask, other=0.0)  # [Q, D]
    p_grad += batch * sg_b + local * sg_h
    p_grad_rows = p_grad + o_n[:, None] * sg_n + o_d[None, :] * sg_d
    b_grad = tl.load(p_grad_rows, mask=qd_mask, other=0.0)  # [Q, D]
    b_lse = tl.load(p_lse + head * num_tokens + o_n, mask=q_mask, other=0.0)
    b_delta = tl.load(p_delta + head * num_tokens + o_n, mask=q_mask, other=0.0)
    b_sum = tl.zeros([HEIGHT, BLOCK_D], dtype=tl.float32)

    if SHARED:
        p_landmarks += batch * sl_b + local * sl_h
        p_landmark_values += head * num_landmarks * D
        for first in range(0, num_landmarks, BLOCK_K):
            o_m = first + o_k
            m_mask = o_m < num_landmarks
            mask = m_mask[:, None] & d_mask[None, :]
            p_rows = p_landmarks + o_m[:, None] * sl_m + o_d[None, :] * sl_d
            b_key = tl.load(p_rows, mask=mask, other=0.0)  # [K, D]
            p_rows = p_landmark_values + o_m[:, None] * D + o_d[None, :]
            b_value = tl.load(p_rows, mask=mask, other=0.0)
            present = q_mask[:, None] & m_mask[None, :]
            if PARTIAL:
                present = present & (o_row % num_routed == 0)[:, None]
            b_sum += _grad_query_step(
                b_query, b_grad, b_lse, b_delta, b_key, b_value, present,
                landmark_scale_log2, landmark_scale, PRECISION,
            )  # fmt: skip

    if ROUTED:
        p_key += batch * sk_b + local * sk_h
        p_value += batch * sv_b + local * sv_h
        p_experts += (head * num_landmarks + expert) * topk
        for first in range(0, topk, BLOCK_K):
            k_mask = first + o_k < topk
            o_key = tl.load(p_experts + first + o_k, mask=k_mask, other=0).to(tl.int64)
            mask = k_mask[:, None] & d_mask[None, :]
            p_rows = p_key + o_key[:, None] * sk_n + o_d[None, :] * sk_d
            b_key = tl.load(p_rows, mask=mask, other=0.0)  # [K, D]
            p_rows = p_value + o_key[:, None] * sv_n + o_d[None, :] * sv_d
            b_value = tl.load(p_rows, mask=mask, other=0.0)
            present = q_mask[:, None] & k_mask[None, :]
            b_sum += _grad_query_step(
                b_query, b_grad, b_lse, b_delta, b_key, b_value, present,
                scale_log2, scale, PRECISION,
            )  # fmt: skip

    if PARTIAL:  # [B H, N s, D]
        p_out_rows = p_grad_query + (head * num_rows + o_row)[:, None] * D + o_d[None, :]
    else:
        p_grad_query += batch * sx_b + local * sx_h
        p_out_rows = p_grad_query + o_n[:, None] * sx_n + o_d[None, :] * sx_d
    tl.store(p_out_rows, b_sum.to(p_grad_query.dtype.element_ty), mask=qd_mask)
