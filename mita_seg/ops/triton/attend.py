"""Each tile of same-expert queries attends to the shared and its routed expert in one softmax.

Reads q and writes o once, row by row; the rows of the experts come from the L2 cache. A program
goes through many tiles, so that loads of the next ones run during the arithmetic of this one and
the shared expert is loaded once.
"""

import triton
import triton.language as tl

from .steps import _attend_step, _dot, _load_rows, _logits, _store_rows


@triton.jit
def _attend_once(
    b_query, b_landmarks, b_landmark_values, b_key, b_value, shared_here,
    scale_log2, landmark_scale_log2, num_landmarks: tl.constexpr, topk: tl.constexpr,
    BLOCK_K: tl.constexpr, SHARED: tl.constexpr, ROUTED: tl.constexpr, PARTIAL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Softmax over landmarks and keys that fit a block each: nothing is ever rescaled."""
    o_k = tl.arange(0, BLOCK_K)
    if SHARED:
        b_shared = _dot(b_query, tl.trans(b_landmarks), None, PRECISION)  # [Q, M]
    if ROUTED:
        b_logits = _dot(b_query, tl.trans(b_key), None, PRECISION)  # [Q, K]
    if SHARED:
        if PARTIAL:
            present = (o_k < num_landmarks)[None, :] & shared_here[:, None]
            b_shared = tl.where(present, b_shared, float('-inf'))
        elif num_landmarks < BLOCK_K:
            b_shared = tl.where((o_k < num_landmarks)[None, :], b_shared, float('-inf'))
        b_peak = tl.max(b_shared, 1) * landmark_scale_log2
    if ROUTED:
        if topk < BLOCK_K:
            b_logits = tl.where((o_k < topk)[None, :], b_logits, float('-inf'))
        b_routed_peak = tl.max(b_logits, 1) * scale_log2
        b_peak = tl.maximum(b_peak, b_routed_peak) if SHARED else b_routed_peak
    if SHARED:
        b_shared = _logits(b_shared, landmark_scale_log2, PRECISION)
        b_shared = tl.exp2((b_shared - b_peak[:, None]).to(tl.float32))
        b_total = tl.sum(b_shared, 1)
        b_out = _dot(b_shared.to(b_query.dtype), b_landmark_values, None, PRECISION)  # [Q, D]
    if ROUTED:
        b_logits = _logits(b_logits, scale_log2, PRECISION)
        b_logits = tl.exp2((b_logits - b_peak[:, None]).to(tl.float32))
        b_routed_total = tl.sum(b_logits, 1)
        b_total = b_total + b_routed_total if SHARED else b_routed_total
        b_weights = b_logits.to(b_query.dtype)
        if SHARED:
            b_out = _dot(b_weights, b_value, b_out, PRECISION)
        else:
            b_out = _dot(b_weights, b_value, None, PRECISION)
    return b_peak, b_total, b_out


@triton.jit
def _attend_kernel(
    p_query, p_key, p_value, p_landmarks, p_landmark_values, p_indices,
    p_row_of_slot, p_tiles, p_out, p_lse,
    sq_b, sq_h, sq_n, sq_d, sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d,
    sl_b, sl_h, sl_m, sl_d, so_b, so_h, so_n, so_d,
    heads, num_routed, num_tiles, num_rows, scale_log2, landmark_scale_log2,
    num_landmarks: tl.constexpr, topk: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    HEIGHT: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    SHARED: tl.constexpr, ROUTED: tl.constexpr, PARTIAL: tl.constexpr, ONE_BLOCK: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    head = tl.program_id(1).to(tl.int64)
    batch, local = head // heads, head % heads
    p_query += batch * sq_b + local * sq_h
    p_key += batch * sk_b + local * sk_h
    p_value += batch * sv_b + local * sv_h
    p_landmarks += batch * sl_b + local * sl_h
    p_landmark_values += head * num_landmarks * D
    p_indices += head * num_landmarks * topk
    p_row_of_slot += head * num_tiles * HEIGHT
    p_tiles += head * (num_tiles + 1)
    p_lse += head * num_rows
    if PARTIAL:  # [B H, N s, D], for `_merge_kernel`
        p_out += head * num_rows * D
    else:
        p_out += batch * so_b + local * so_h
    o_q, o_k = tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_K)
    used = num_tiles
    if ROUTED:
        used = tl.load(p_tiles + num_tiles)
    if ONE_BLOCK:
        m_mask = o_k < num_landmarks if SHARED else o_k < 0
        b_landmarks = _load_rows(p_landmarks, o_k, sl_m, sl_d, m_mask, D, BLOCK_D)  # [K, D]
        b_landmark_values = _load_rows(p_landmark_values, o_k, D, 1, m_mask, D, BLOCK_D)

    first_tile, end = program * used // programs, (program + 1) * used // programs
    if first_tile == end:
        return
    if ROUTED and ONE_BLOCK:
        # What tells the addresses of a tile's rows is loaded a tile ahead. (No value is handed on
        # unchanged from one tile to the next: Triton would give up prefetching.)
        packed = tl.load(p_tiles + first_tile)
        next_packed = tl.load(p_tiles + min(first_tile + 1, end - 1))
        next_expert = packed // 256
        next_row = tl.load(
            p_row_of_slot + first_tile * HEIGHT + o_q, mask=o_q < packed % 256, other=-1
        )  # [Q]
        next_key = tl.load(p_indices + next_expert * topk + o_k, mask=o_k < topk, other=0)  # [K]
    for tile in tl.range(first_tile, end, num_stages=STAGES):
        o_row = tile * HEIGHT + o_q
        o_key = o_k
        q_mask = o_row < num_rows
        if ROUTED and not ONE_BLOCK:
            packed = tl.load(p_tiles + tile)
            expert = packed // 256
            q_mask = o_q < packed % 256
            o_row = tl.load(p_row_of_slot + tile * HEIGHT + o_q, mask=q_mask, other=0)
            o_key = tl.load(p_indices + expert * topk + o_k, mask=o_k < topk, other=0)
        elif ROUTED:
            o_row, o_key = next_row, next_key
            q_mask = o_row >= 0
            next_expert = next_packed // 256
            o_slot = min(tile + 1, end - 1) * HEIGHT + o_q
            next_row = tl.load(p_row_of_slot + o_slot, mask=o_q < next_packed % 256, other=-1)
            next_key = tl.load(p_indices + next_expert * topk + o_k, mask=o_k < topk, other=0)
            next_packed = tl.load(p_tiles + min(tile + 2, end - 1))
        o_n = o_row // num_routed
        b_query = _load_rows(p_query, o_n, sq_n, sq_d, q_mask, D, BLOCK_D, WIDE)  # [Q, D]
        shared_here = q_mask
        if PARTIAL:  # with the first expert of a query alone
            shared_here = o_row % num_routed == 0

        if ONE_BLOCK:
            b_key = _load_rows(p_key, o_key, sk_n, sk_d, o_k < topk, D, BLOCK_D, WIDE)  # [K, D]
            b_value = _load_rows(p_value, o_key, sv_n, sv_d, o_k < topk, D, BLOCK_D, WIDE)  # [K, D]
            b_peak, b_total, b_out = _attend_once(
                b_query, b_landmarks, b_landmark_values, b_key, b_value, shared_here,
                scale_log2, landmark_scale_log2, num_landmarks, topk,
                BLOCK_K, SHARED, ROUTED, PARTIAL, PRECISION,
            )  # fmt: skip
        else:
            b_peak = tl.full([BLOCK_Q], float('-inf'), dtype=tl.float32)
            b_total = tl.zeros([BLOCK_Q], dtype=tl.float32)
            b_out = tl.zeros([BLOCK_Q, BLOCK_D], dtype=tl.float32)
            if SHARED:
                for first in tl.range(0, num_landmarks, BLOCK_K, num_stages=STAGES):
                    o_m = first + o_k
                    m_mask = None if num_landmarks % BLOCK_K == 0 else o_m < num_landmarks
                    b_key = _load_rows(p_landmarks, o_m, sl_m, sl_d, m_mask, D, BLOCK_D)
                    b_value = _load_rows(p_landmark_values, o_m, D, 1, m_mask, D, BLOCK_D)
                    if PARTIAL:
                        present = (o_m < num_landmarks)[None, :] & shared_here[:, None]
                    else:
                        present = None if m_mask is None else m_mask[None, :]
                    b_peak, b_total, b_out = _attend_step(
                        b_query, b_key, b_value, present, landmark_scale_log2,
                        b_peak, b_total, b_out, PARTIAL, PRECISION,
                    )  # fmt: skip
            if ROUTED:
                for first in tl.range(0, topk, BLOCK_K, num_stages=STAGES):
                    k_mask = None if topk % BLOCK_K == 0 else first + o_k < topk
                    o_next = first + BLOCK_K + o_k
                    b_key = _load_rows(p_key, o_key, sk_n, sk_d, k_mask, D, BLOCK_D, WIDE)
                    b_value = _load_rows(p_value, o_key, sv_n, sv_d, k_mask, D, BLOCK_D, WIDE)
                    present = None if k_mask is None else k_mask[None, :]
                    b_peak, b_total, b_out = _attend_step(
                        b_query, b_key, b_value, present, scale_log2,
                        b_peak, b_total, b_out, False, PRECISION,
                    )  # fmt: skip
                    # The next block's, ahead of its loop step.
                    o_key = tl.load(p_indices + expert * topk + o_next, mask=o_next < topk, other=0)

        b_out *= (1.0 / b_total)[:, None]
        if PARTIAL:
            _store_rows(p_out, b_out, o_row, D, 1, q_mask, D, BLOCK_D, WIDE=True)  # N s d
        else:
            _store_rows(p_out, b_out, o_n, so_n, so_d, q_mask, D, BLOCK_D, WIDE)
        b_lse = b_peak.to(p_lse.dtype.element_ty) + tl.log2(b_total)
        tl.store(p_lse + o_row, b_lse, mask=q_mask)
