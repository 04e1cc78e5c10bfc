"""Each tile of same-expert queries attends to the shared and its routed expert in one softmax.

Reads q and writes o once, row by row; the rows of the experts come from the L2 cache. With s > 1
every row, a query and one of its experts, yields a partial result, the first one of a query with
the shared expert; `_merge_kernel` joins them.
"""

import triton
import triton.language as tl


@triton.jit
def _online_softmax(b_logits, b_value, b_peak, b_total, b_out, PRECISION: tl.constexpr):
    """One step over logits [Q, K] (base 2; -inf: absent) and values [K, D]."""
    b_new = tl.maximum(b_peak, tl.max(b_logits, 1))
    b_safe = tl.where(b_new == float('-inf'), 0.0, b_new)  # no key yet
    b_weights = tl.exp2(b_logits - b_safe[:, None])
    b_shrink = tl.exp2(b_peak - b_safe)
    b_total = b_total * b_shrink + tl.sum(b_weights, 1)
    b_out = b_out * b_shrink[:, None] + tl.dot(
        b_weights.to(b_value.dtype), b_value, input_precision=PRECISION
    )
    return b_new, b_total, b_out


@triton.jit
def _attend_kernel(
    p_query, p_key, p_value, p_landmarks, p_landmark_values, p_experts,
    p_row_of_slot, p_tile_expert, p_tile_rows, p_out, p_lse,
    sq_b, sq_h, sq_n, sq_d, sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d,
    sl_b, sl_h, sl_m, sl_d, so_b, so_h, so_n, so_d,
    heads, num_landmarks, topk, num_routed, num_tiles, num_rows,
    scale_log2, landmark_scale_log2,
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
    b_query = tl.load(
        p_query + o_n[:, None] * sq_n + o_d[None, :] * sq_d, mask=qd_mask, other=0.0
    )  # [Q, D]
    b_peak = tl.full([HEIGHT], float('-inf'), dtype=tl.float32)
    b_total = tl.zeros([HEIGHT], dtype=tl.float32)
    b_out = tl.zeros([HEIGHT, BLOCK_D], dtype=tl.float32)

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
            b_logits = tl.dot(b_query, tl.trans(b_key), input_precision=PRECISION)
            present = m_mask[None, :]
            if PARTIAL:
                present = present & (o_row % num_routed == 0)[:, None]
            b_logits = tl.where(present, b_logits * landmark_scale_log2, float('-inf'))
            b_peak, b_total, b_out = _online_softmax(
                b_logits, b_value, b_peak, b_total, b_out, PRECISION
            )

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
            b_logits = tl.dot(b_query, tl.trans(b_key), input_precision=PRECISION)
            b_logits = tl.where(k_mask[None, :], b_logits * scale_log2, float('-inf'))
            b_peak, b_total, b_out = _online_softmax(
                b_logits, b_value, b_peak, b_total, b_out, PRECISION
            )

    b_out = b_out / b_total[:, None]
    if PARTIAL:  # [B H, N s, D]
        p_out_rows = p_out + (head * num_rows + o_row)[:, None] * D + o_d[None, :]
    else:
        p_out += batch * so_b + local * so_h
        p_out_rows = p_out + o_n[:, None] * so_n + o_d[None, :] * so_d
    tl.store(p_out_rows, b_out.to(p_out.dtype.element_ty), mask=qd_mask)
    tl.store(p_lse + head * num_rows + o_row, b_peak + tl.log2(b_total), mask=q_mask)


@triton.jit
def _merge_kernel(
    p_part, p_part_lse, p_out, p_lse,
    so_b, so_h, so_n, so_d,
    heads, num_tokens, num_routed,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    o_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    o_d = tl.arange(0, BLOCK_D)
    n_mask, d_mask = o_n < num_tokens, o_d < D
    o_row = (head * num_tokens + o_n) * num_routed
    b_peak = tl.full([BLOCK_N], float('-inf'), dtype=tl.float32)
    b_total = tl.zeros([BLOCK_N], dtype=tl.float32)
    b_out = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    for j in range(num_routed):
        b_lse = tl.load(p_part_lse + o_row + j, mask=n_mask, other=0.0)
        p_rows = p_part + (o_row + j)[:, None] * D + o_d[None, :]
        b_part = tl.load(p_rows, mask=n_mask[:, None] & d_mask[None, :], other=0.0)
        b_new = tl.maximum(b_peak, b_lse)
        b_shrink, b_weight = tl.exp2(b_peak - b_new), tl.exp2(b_lse - b_new)
        b_total = b_total * b_shrink + b_weight
        b_out = b_out * b_shrink[:, None] + b_part.to(tl.float32) * b_weight[:, None]
        b_peak = b_new
    p_out += head // heads * so_b + head % heads * so_h
    p_out_rows = p_out + o_n.to(tl.int64)[:, None] * so_n + o_d[None, :] * so_d
    b_out = (b_out / b_total[:, None]).to(p_out.dtype.element_ty)
    tl.store(p_out_rows, b_out, mask=n_mask[:, None] & d_mask[None, :])
    tl.store(p_lse + head * num_tokens + o_n, b_peak + tl.log2(b_total), mask=n_mask)
