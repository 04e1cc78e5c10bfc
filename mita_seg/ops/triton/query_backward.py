"""Gradient of the queries, tile by tile, where several blocks or experts share a query.

Reads q and do once and writes dq once; the rows of the experts come from the L2 cache.
"""

import triton
import triton.language as tl
from torch import Tensor

from ..options import MiTAOptions
from .blocks import MERGE_TOKENS, Blocks
from .call_plan import Plan
from .launch import LOG2E, cdiv, precision
from .state import State
from .steps import _dot, _load_rows, _logits, _store_rows


@triton.jit
def _grad_query_step(
    b_query, b_grad, b_lse, b_delta, b_key, b_value, present, scale_log2, scale, b_sum,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds what keys and values [K, D] give to dq [Q, D]; `present` [Q, K] or [1, K], None: all."""
    b_scores = _dot(b_query, tl.trans(b_key), None, PRECISION)  # [Q, K]
    b_logits = _logits(b_scores, scale_log2, PRECISION)
    b_weights = tl.exp2((b_logits - b_lse[:, None]).to(tl.float32))
    if present is not None:
        b_weights = tl.where(present, b_weights, 0.0)
    b_inner = _dot(b_grad, tl.trans(b_value), None, PRECISION)  # [Q, K]
    b_grad_logits = (b_weights * (b_inner - b_delta[:, None]) * scale).to(b_key.dtype)
    return _dot(b_grad_logits, b_key, b_sum, PRECISION)


@triton.jit
def _query_backward_kernel(
    p_query, p_key, p_value, p_landmarks, p_landmark_values, p_indices, p_grad, p_lse, p_delta,
    p_row_of_slot, p_tiles, p_grad_query,
    sq_b, sq_h, sq_n, sq_d, sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d,
    sl_b, sl_h, sl_m, sl_d, sg_b, sg_h, sg_n, sg_d, sx_b, sx_h, sx_n, sx_d,
    heads, num_tokens, num_routed, num_tiles, num_rows,
    scale_log2, scale, landmark_scale_log2, landmark_scale,
    num_landmarks: tl.constexpr, topk: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    HEIGHT: tl.constexpr, BLOCK_K: tl.constexpr,
    SHARED: tl.constexpr, ROUTED: tl.constexpr, PARTIAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq of a tile of queries, from all of its experts. Grid (tiles, B H).

    Reads q and do once and writes dq [B, H, N, D], or [B H, N s, D] with s > 1; the rows of the
    experts come from the L2 cache.
    """
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, local = head // heads, head % heads
    o_q, o_k = tl.arange(0, HEIGHT), tl.arange(0, BLOCK_K)
    if ROUTED:
        if tile >= tl.load(p_tiles + head * (num_tiles + 1) + num_tiles):  # in use
            return
        packed = tl.load(p_tiles + head * (num_tiles + 1) + tile)
        rows, expert = packed % 256, packed // 256
        q_mask = o_q < rows
        o_row = tl.load(p_row_of_slot + (head * num_tiles + tile) * HEIGHT + o_q, mask=q_mask)
        o_row = tl.where(q_mask, o_row, 0)
    else:
        o_row = tile * HEIGHT + o_q
        q_mask = o_row < num_rows
    o_n = o_row // num_routed

    p_query += batch * sq_b + local * sq_h
    b_query = _load_rows(p_query, o_n, sq_n, sq_d, q_mask, D, BLOCK_D, WIDE)  # [Q, D]
    p_grad += batch * sg_b + local * sg_h
    b_grad = _load_rows(p_grad, o_n, sg_n, sg_d, q_mask, D, BLOCK_D, WIDE)  # [Q, D]
    b_lse = tl.load(p_lse + head * num_tokens + o_n, mask=q_mask, other=0.0)
    b_delta = tl.load(p_delta + head * num_tokens + o_n, mask=q_mask, other=0.0)
    b_sum = tl.zeros([HEIGHT, BLOCK_D], dtype=tl.float32)
    if SHARED:
        p_landmarks += batch * sl_b + local * sl_h
        p_landmark_values += head * num_landmarks * D
        for first in range(0, num_landmarks, BLOCK_K):
            o_m = first + o_k
            m_mask = None if num_landmarks % BLOCK_K == 0 else o_m < num_landmarks
            b_key = _load_rows(p_landmarks, o_m, sl_m, sl_d, m_mask, D, BLOCK_D)  # [K, D]
            b_value = _load_rows(p_landmark_values, o_m, D, 1, m_mask, D, BLOCK_D)
            if PARTIAL:  # with the first expert of a query alone
                present = (o_m < num_landmarks)[None, :] & (o_row % num_routed == 0)[:, None]
            else:
                present = None if m_mask is None else m_mask[None, :]
            b_sum = _grad_query_step(
                b_query, b_grad, b_lse, b_delta, b_key, b_value, present,
                landmark_scale_log2, landmark_scale, b_sum, PRECISION,
            )  # fmt: skip
    if ROUTED:
        p_key += batch * sk_b + local * sk_h
        p_value += batch * sv_b + local * sv_h
        p_indices += (head * num_landmarks + expert) * topk
        o_key = tl.load(p_indices + o_k, mask=o_k < topk, other=0)
        for first in range(0, topk, BLOCK_K):
            k_mask = None if topk % BLOCK_K == 0 else first + o_k < topk
            o_next = first + BLOCK_K + o_k
            b_key = _load_rows(p_key, o_key, sk_n, sk_d, k_mask, D, BLOCK_D, WIDE)  # [K, D]
            b_value = _load_rows(p_value, o_key, sv_n, sv_d, k_mask, D, BLOCK_D, WIDE)
            b_sum = _grad_query_step(
                b_query, b_grad, b_lse, b_delta, b_key, b_value,
                None if k_mask is None else k_mask[None, :], scale_log2, scale, b_sum, PRECISION,
            )  # fmt: skip
            o_key = tl.load(p_indices + o_next, mask=o_next < topk, other=0)  # the next block's

    if PARTIAL:  # [B H, N s, D], summed over s afterwards
        _store_rows(p_grad_query, b_sum, head * num_rows + o_row, D, 1, q_mask, D, BLOCK_D)
    else:
        p_grad_query += batch * sx_b + local * sx_h
        _store_rows(p_grad_query, b_sum, o_n, sx_n, sx_d, q_mask, D, BLOCK_D, WIDE)


@triton.jit
def _sum_rows_kernel(
    p_part, p_out,
    so_b, so_h, so_n, so_d,
    heads, num_tokens, num_routed,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """part [B H, N s, D], query by query -> out [B, H, N, D]"""
    head = tl.program_id(1).to(tl.int64)
    o_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = o_n < num_tokens
    o_row = (head * num_tokens + o_n) * num_routed
    b_out = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    for j in range(num_routed):
        b_out += _load_rows(p_part, o_row + j, D, 1, n_mask, D, BLOCK_D).to(tl.float32)
    p_out += head // heads * so_b + head % heads * so_h
    _store_rows(p_out, b_out, o_n, so_n, so_d, n_mask, D, BLOCK_D, WIDE)


def grad_query_alone(
    plan: Plan, grad_query: Tensor, query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor,
    grad: Tensor, delta: Tensor, state: State, options: MiTAOptions, blocks: Blocks, wide: bool,
) -> None:  # fmt: skip
    """Writes the gradient of the queries [B, H, N, d] in a pass of its own."""
    batch, heads, tokens, dim = query.shape
    topk, num_routed = options.topk, options.num_routed
    scale, landmark_scale = options.scale, options.landmark_scale
    rows, num_rows, lse = batch * heads, tokens * num_routed, state.lse
    routed, partial = topk > 0, num_routed > 1
    part_query = grad_query
    if partial:
        part_query = plan.scratch(rows, num_rows, dim, dtype=query.dtype)
    num_tiles = state.tiles.shape[1] - 1 if routed else cdiv(tokens, blocks.height)
    plan.launch(
        _query_backward_kernel, (num_tiles, rows),
        query, key, value, landmarks, state.values, state.indices, grad, lse, delta,
        state.row_of_slot, state.tiles, part_query,
        *query.stride(), *key.stride(), *value.stride(), *landmarks.stride(), *grad.stride(),
        *grad_query.stride(),
        heads, tokens, num_routed, num_tiles, num_rows,
        scale * LOG2E, scale, landmark_scale * LOG2E, landmark_scale, landmarks.shape[2], topk,
        D=dim, BLOCK_D=blocks.dim, WIDE=wide,
        HEIGHT=blocks.height, BLOCK_K=min(blocks.query_backward.rows, blocks.keys),
        SHARED=options.shared, ROUTED=routed, PARTIAL=partial,
        PRECISION=precision(query.dtype), **blocks.query_backward.launch,
    )  # fmt: skip
    if partial:
        plan.launch(
            _sum_rows_kernel, (cdiv(tokens, MERGE_TOKENS), rows),
            part_query, grad_query, *grad_query.stride(), heads, tokens, num_routed,
            D=dim, BLOCK_D=blocks.dim, WIDE=wide, BLOCK_N=MERGE_TOKENS,
        )  # fmt: skip
