"""Gradients of the keys and values of each routed expert, over the queries it serves.

One program an expert and block of its keys: no atomics, each row is written once. Reads q and do
once a block of keys and writes 2 m k d values a head.
"""

import triton
import triton.language as tl


@triton.jit
def _expert_backward_kernel(
    p_query, p_key, p_value, p_experts, p_grad, p_lse, p_delta,
    p_row_of_slot, p_first_tile, p_total, p_expert_grad_key, p_expert_grad_value,
    sq_b, sq_h, sq_n, sq_d, sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d,
    sg_b, sg_h, sg_n, sg_d,
    heads, num_tokens, num_landmarks, topk, num_routed, num_slots, height, scale_log2, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    expert, head = tl.program_id(0), tl.program_id(2).to(tl.int64)
    batch, local = head // heads, head % heads
    p_query += batch * sq_b + local * sq_h
    p_grad += batch * sg_b + local * sg_h
    row = head * num_landmarks + expert

    o_k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    o_d = tl.arange(0, BLOCK_D)
    k_mask, d_mask = o_k < topk, o_d < D
    kd_mask = k_mask[:, None] & d_mask[None, :]
    o_key = tl.load(p_experts + row * topk + o_k, mask=k_mask, other=0).to(tl.int64)
    p_key += batch * sk_b + local * sk_h
    p_key_rows = p_key + o_key[:, None] * sk_n + o_d[None, :] * sk_d
    b_key = tl.load(p_key_rows, mask=kd_mask, other=0.0)  # [K, D]
    p_value += batch * sv_b + local * sv_h
    p_value_rows = p_value + o_key[:, None] * sv_n + o_d[None, :] * sv_d
    b_value = tl.load(p_value_rows, mask=kd_mask, other=0.0)  # [K, D]
    b_grad_key = tl.zeros([BLOCK_K, BLOCK_D], dtype=tl.float32)
    b_grad_value = tl.zeros([BLOCK_K, BLOCK_D], dtype=tl.float32)

    total = tl.load(p_total + row)
    p_slots = p_row_of_slot + head * num_slots + tl.load(p_first_tile + row) * height
    for first in range(0, total, BLOCK_Q):
        o_q = first + tl.arange(0, BLOCK_Q)
        q_mask = o_q < total
        o_n = (tl.load(p_slots + o_q, mask=q_mask, other=0) // num_routed).to(tl.int64)
        mask = q_mask[:, None] & d_mask[None, :]
        p_rows = p_query + o_n[:, None] * sq_n + o_d[None, :] * sq_d
        b_query = tl.load(p_rows, mask=mask, other=0.0)  # [Q, D]
        p_rows = p_grad + o_n[:, None] * sg_n + o_d[None, :] * sg_d
        b_grad = tl.load(p_rows, mask=mask, other=0.0)  # [Q, D]
        b_lse = tl.load(p_lse + head * num_tokens + o_n, mask=q_mask, other=0.0)
        b_delta = tl.load(p_delta + head * num_tokens + o_n, mask=q_mask, other=0.0)
        b_logits = tl.dot(b_key, tl.trans(b_query), input_precision=PRECISION)  # [K, Q]
        b_weights = tl.exp2(b_logits * scale_log2 - b_lse[None, :])
        b_weights = tl.where(k_mask[:, None] & q_mask[None, :], b_weights, 0.0)
        b_inner = tl.dot(b_value, tl.trans(b_grad), input_precision=PRECISION)  # [K, Q]
        b_grad_logits = b_weights * (b_inner - b_delta[None, :])
        b_grad_value += tl.dot(b_weights.to(b_grad.dtype), b_grad, input_precision=PRECISION)
        b_grad_key += tl.dot(b_grad_logits.to(b_query.dtype), b_query, input_precision=PRECISION)

    o_out = (row * topk + o_k)[:, None] * D + o_d[None, :]
    dtype = p_expert_grad_key.dtype.element_ty
    tl.store(p_expert_grad_key + o_out, (b_grad_key * scale).to(dtype), mask=kd_mask)
    tl.store(p_expert_grad_value + o_out, b_grad_value.to(dtype), mask=kd_mask)
