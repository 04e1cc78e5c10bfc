"""Gradients of the keys and values of each routed expert, over the queries it serves.

The programs share the tiles evenly, so that one may begin and end within an expert; it writes what
it has of each expert, for one block of keys, as entries of its own: no atomics. Reads q and do once
a block of keys and writes 2 m k d values a head, and 2 k d more for each program.
Where one block holds all keys it also completes dq, of which the shared expert's part is there.
"""

import triton
import triton.language as tl

from .entries import _program_of_tile
from .steps import _backward_step, _dot, _load_rows, _store_rows


@triton.jit(do_not_specialize=['first_head'])
def _expert_backward_kernel(
    p_query, p_key, p_value, p_indices, p_grad, p_lse, p_delta, p_row_of_slot, p_tiles,
    p_first_tile, p_shift, p_grad_query, p_entry_key, p_entry_grad_key, p_entry_grad_value,
    sq_b, sq_h, sq_n, sq_d, sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d,
    sg_b, sg_h, sg_n, sg_d, sx_b, sx_h, sx_n, sx_d,
    first_head, heads, num_tokens, num_landmarks, topk, num_routed, num_tiles, num_blocks,
    num_entries, scale_log2, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    HEIGHT: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    KEYS: tl.constexpr, WITH_QUERY: tl.constexpr, ADD: tl.constexpr, PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    part = tl.program_id(2).to(tl.int64)  # the entries are those of some heads alone
    head = first_head + part
    batch, local = head // heads, head % heads
    p_query += batch * sq_b + local * sq_h
    p_key += batch * sk_b + local * sk_h
    p_value += batch * sv_b + local * sv_h
    p_grad += batch * sg_b + local * sg_h
    p_grad_query += batch * sx_b + local * sx_h
    p_lse += head * num_tokens
    p_delta += head * num_tokens
    p_indices += head * num_landmarks * topk
    p_row_of_slot += head * num_tiles * HEIGHT
    p_tiles += head * (num_tiles + 1)
    p_first_tile += head * num_landmarks
    p_shift += head * num_blocks * num_landmarks
    p_entry_key += part * num_entries
    p_entry_grad_key += part * num_entries * D
    p_entry_grad_value += part * num_entries * D

    used = tl.load(p_tiles + num_tiles)
    # A step takes BLOCK_Q rows of a tile.
    PARTS: tl.constexpr = HEIGHT // BLOCK_Q
    first, end = program * used // programs * PARTS, (program + 1) * used // programs * PARTS
    o_q = tl.arange(0, BLOCK_Q)
    o_k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    k_mask = o_k < topk
    o_k = tl.minimum(o_k, topk - 1)  # absent keys repeat the last one; their weights are zero
    b_grad_key = tl.zeros([BLOCK_K, BLOCK_D], dtype=tl.float32)
    b_grad_value = tl.zeros([BLOCK_K, BLOCK_D], dtype=tl.float32)
    # What tells the addresses of a step's rows is loaded a step ahead: the rows then wait for no
    # other load, and a second stage lets them arrive during the arithmetic of the step before.
    packed = tl.load(p_tiles + first // PARTS)
    following = tl.load(p_tiles + min(first + 1, end - 1) // PARTS)
    expert = packed // 256
    o_row = tl.load(p_row_of_slot + first * BLOCK_Q + o_q, mask=o_q < packed % 256, other=-1)
    o_key = tl.load(p_indices + expert * topk + o_k)
    for step in tl.range(first, end, num_stages=STAGES):
        next_expert = following // 256
        completes = (step + 1 == end) | (next_expert != expert)
        q_mask = o_row >= 0
        o_n = tl.maximum(o_row, 0) // num_routed  # absent rows are query 0, whose weights are zero
        b_key = _load_rows(p_key, o_key, sk_n, sk_d, None, D, BLOCK_D, WIDE)  # [K, D]
        b_value = _load_rows(p_value, o_key, sv_n, sv_d, None, D, BLOCK_D, WIDE)  # [K, D]
        b_query = _load_rows(p_query, o_n, sq_n, sq_d, None, D, BLOCK_D, WIDE)  # [Q, D]
        b_grad = _load_rows(p_grad, o_n, sg_n, sg_d, None, D, BLOCK_D, WIDE)  # [Q, D]
        b_lse = tl.load(p_lse + o_n, mask=q_mask, other=float('inf'))
        b_delta = tl.load(p_delta + o_n)
        next_step = min(step + 1, end - 1)
        q_left = following % 256 - next_step % PARTS * BLOCK_Q
        next_row = tl.load(p_row_of_slot + next_step * BLOCK_Q + o_q, mask=o_q < q_left, other=-1)
        next_key = tl.load(p_indices + next_expert * topk + o_k)
        following = tl.load(p_tiles + min(step + 2, end - 1) // PARTS)
        if WITH_QUERY and ADD:
            b_shared = _load_rows(p_grad_query, o_n, sx_n, sx_d, None, D, BLOCK_D, WIDE)  # [Q, D]
        b_grad_key, b_grad_value, b_grad_logits = _backward_step(
            b_query, b_grad, b_lse, b_delta, b_key, b_value,
            k_mask, scale_log2, b_grad_key, b_grad_value, PRECISION,
        )  # fmt: skip
        if WITH_QUERY:
            b_grad_query = _dot(tl.trans(b_grad_logits), b_key, None, PRECISION)  # [Q, D]
            b_grad_query *= scale
            if ADD:
                b_grad_query += b_shared.to(tl.float32)
            _store_rows(p_grad_query, b_grad_query, o_n, sx_n, sx_d, q_mask, D, BLOCK_D, WIDE)
        if completes:
            first_tile = tl.load(p_first_tile + expert)
            segment = program - _program_of_tile(first_tile, used, programs)
            o_key = tl.load(p_indices + expert * topk + o_k)  # again, rather than kept in registers
            o_shift = (o_key // KEYS) * num_landmarks + expert
            b_shift = tl.load(p_shift + o_shift, mask=k_mask, other=0)
            o_entry = o_k + b_shift // 128 + segment * (b_shift % 128)
            tl.store(p_entry_key + o_entry, o_key, mask=k_mask)
            _store_rows(p_entry_grad_key, b_grad_key * scale, o_entry, D, 1, k_mask, D, BLOCK_D)
            _store_rows(p_entry_grad_value, b_grad_value, o_entry, D, 1, k_mask, D, BLOCK_D)
            b_grad_key = tl.zeros([BLOCK_K, BLOCK_D], dtype=tl.float32)
            b_grad_value = tl.zeros([BLOCK_K, BLOCK_D], dtype=tl.float32)
        expert, o_row, o_key = next_expert, next_row, next_key
