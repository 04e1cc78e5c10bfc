"""Gradients of keys and values in natural order: through the shared values and from the experts.

Reads k and v and writes dk and dv once. The experts' rows of a block of keys are found through
`bounds`: the indices of an expert ascend, so those within a block are a range. Rows are added to
their keys by a product with a 0/1 matrix instead of atomics.
"""

import triton
import triton.language as tl


@triton.jit
def _bounds_kernel(
    p_experts, p_bounds, num_landmarks, topk, num_bounds,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """bounds[b]: how many keys of the expert lie before block b, [B H, m, blocks + 1]"""
    row = tl.program_id(1).to(tl.int64) * num_landmarks + tl.program_id(0)
    o_b = tl.program_id(2) * BLOCK_B + tl.arange(0, BLOCK_B)
    b_bounds = tl.zeros([BLOCK_B], dtype=tl.int32)
    for first in range(0, topk, BLOCK_K):
        o_k = first + tl.arange(0, BLOCK_K)
        b_index = tl.load(p_experts + row * topk + o_k, mask=o_k < topk, other=2147483647)
        b_bounds += tl.sum((b_index[None, :] < (o_b * BLOCK_N)[:, None]).to(tl.int32), 1)
    tl.store(p_bounds + row * num_bounds + o_b, b_bounds, mask=o_b < num_bounds)


@triton.jit
def _key_backward_kernel(
    p_key, p_value, p_landmarks, p_landmark_lse, p_grad_values, p_value_delta,
    p_experts, p_bounds, p_expert_grad_key, p_expert_grad_value,
    p_grad_key, p_grad_value, p_part_landmarks,
    sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d, sl_b, sl_h, sl_m, sl_d,
    sx_b, sx_h, sx_n, sx_d, sy_b, sy_h, sy_n, sy_d,
    heads, num_tokens, num_landmarks, topk, num_bounds, programs, scale_log2, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
    ALL_M: tl.constexpr, BLOCK_E: tl.constexpr,
    SHARED: tl.constexpr, ROUTED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, local = head // heads, head % heads
    o_n, o_d = block * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    n_mask, d_mask = o_n < num_tokens, o_d < D
    nd_mask = n_mask[:, None] & d_mask[None, :]
    o_n64 = o_n.to(tl.int64)
    b_grad_key = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    b_grad_value = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)

    if SHARED:
        p_key += batch * sk_b + local * sk_h
        p_key_rows = p_key + o_n64[:, None] * sk_n + o_d[None, :] * sk_d
        b_key = tl.load(p_key_rows, mask=nd_mask, other=0.0)  # [N, D]
        p_value += batch * sv_b + local * sv_h
        p_value_rows = p_value + o_n64[:, None] * sv_n + o_d[None, :] * sv_d
        b_value = tl.load(p_value_rows, mask=nd_mask, other=0.0)  # [N, D]
        p_landmarks += batch * sl_b + local * sl_h
        for first in range(0, num_landmarks, BLOCK_M):
            o_m = first + tl.arange(0, BLOCK_M)
            m_mask = o_m < num_landmarks
            md_mask = m_mask[:, None] & d_mask[None, :]
            o_row = head * num_landmarks + o_m
            p_rows = p_landmarks + o_m[:, None] * sl_m + o_d[None, :] * sl_d
            b_landmarks = tl.load(p_rows, mask=md_mask, other=0.0)  # [M, D]
            p_rows = p_grad_values + o_row[:, None] * D + o_d[None, :]
            b_grad_shared = tl.load(p_rows, mask=md_mask, other=0.0)  # [M, D]
            b_lse = tl.load(p_landmark_lse + o_row, mask=m_mask, other=0.0)
            b_delta = tl.load(p_value_delta + o_row, mask=m_mask, other=0.0)
            b_scores = tl.dot(b_landmarks, tl.trans(b_key), input_precision=PRECISION)  # [M, N]
            b_weights = tl.exp2(b_scores * scale_log2 - b_lse[:, None])
            b_weights = tl.where(m_mask[:, None] & n_mask[None, :], b_weights, 0.0)
            b_inner = tl.dot(b_grad_shared, tl.trans(b_value), input_precision=PRECISION)
            b_grad_scores = (b_weights * (b_inner - b_delta[:, None]) * scale).to(b_key.dtype)
            b_grad_value += tl.dot(
                tl.trans(b_weights.to(b_key.dtype)), b_grad_shared, input_precision=PRECISION
            )
            b_grad_key += tl.dot(tl.trans(b_grad_scores), b_landmarks, input_precision=PRECISION)
            b_part = tl.dot(b_grad_scores, b_key, input_precision=PRECISION)  # [M, D]
            o_part = (head * programs + block) * num_landmarks + o_m
            tl.store(p_part_landmarks + o_part[:, None] * D + o_d[None, :], b_part, mask=md_mask)

    if ROUTED:
        o_all = tl.arange(0, ALL_M)
        p_range = p_bounds + (head * num_landmarks + o_all) * num_bounds + block
        b_low = tl.load(p_range, mask=o_all < num_landmarks, other=0)
        b_high = tl.load(p_range + 1, mask=o_all < num_landmarks, other=0)
        b_end = tl.cumsum(b_high - b_low, 0)  # [M], entries of experts up to and with this one
        b_shift = b_low - (b_end - (b_high - b_low))  # entry -> place within its expert
        total = tl.sum(b_high - b_low, 0)
        for first in range(0, total, BLOCK_E):
            o_e = first + tl.arange(0, BLOCK_E)
            e_mask = o_e < total
            b_expert = tl.sum((b_end[None, :] <= o_e[:, None]).to(tl.int32), 1)  # [E]
            own = o_all[None, :] == b_expert[:, None]
            b_place = o_e + tl.sum(tl.where(own, b_shift[None, :], 0), 1)
            o_entry = (head * num_landmarks + b_expert) * topk + b_place
            b_index = tl.load(p_experts + o_entry, mask=e_mask, other=-1)
            b_owner = (o_n[:, None] == b_index[None, :]).to(p_expert_grad_key.dtype.element_ty)
            o_rows = o_entry[:, None] * D + o_d[None, :]
            ed_mask = e_mask[:, None] & d_mask[None, :]
            b_rows = tl.load(p_expert_grad_key + o_rows, mask=ed_mask, other=0.0)  # [E, D]
            b_grad_key += tl.dot(b_owner, b_rows, input_precision=PRECISION)
            b_rows = tl.load(p_expert_grad_value + o_rows, mask=ed_mask, other=0.0)
            b_grad_value += tl.dot(b_owner, b_rows, input_precision=PRECISION)

    dtype = p_grad_key.dtype.element_ty
    p_grad_key += batch * sx_b + local * sx_h
    p_out_rows = p_grad_key + o_n64[:, None] * sx_n + o_d[None, :] * sx_d
    tl.store(p_out_rows, b_grad_key.to(dtype), mask=nd_mask)
    p_grad_value += batch * sy_b + local * sy_h
    p_out_rows = p_grad_value + o_n64[:, None] * sy_n + o_d[None, :] * sy_d
    tl.store(p_out_rows, b_grad_value.to(dtype), mask=nd_mask)


@triton.jit
def _reduce_landmarks_kernel(
    p_part, p_grad_landmarks, p_out, num_landmarks, programs,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Landmark gradient: from the output softmax plus, summed over blocks, through the values."""
    landmark, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o_d = tl.arange(0, BLOCK_D)
    d_mask = o_d < D
    row = head * num_landmarks + landmark
    b_sum = tl.load(p_grad_landmarks + row * D + o_d, mask=d_mask, other=0.0)
    for first in range(0, programs, BLOCK_S):
        o_s = first + tl.arange(0, BLOCK_S)
        o_part = ((head * programs + o_s) * num_landmarks + landmark)[:, None] * D + o_d[None, :]
        mask = (o_s < programs)[:, None] & d_mask[None, :]
        b_sum += tl.sum(tl.load(p_part + o_part, mask=mask, other=0.0), 0)
    p_rows = p_out + row * D + o_d
    tl.store(p_rows, b_sum.to(p_out.dtype.element_ty), mask=d_mask)
