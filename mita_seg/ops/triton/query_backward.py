"""Gradient of the queries, tile by tile, where several blocks or experts share a query.

Reads q and do once and writes dq once; the experts' keys and values come from the L2 cache.
"""

import triton
import triton.language as tl
from torch import Tensor

from ..options import MiTAOptions
from .blocks import MERGE_TOKENS, Blocks
from .call_plan import Plan
from .launch import LOG2E, cdiv, precision
from .state import State
from .steps import _dot, _less_offset, _load_rows, _logits, _remainder_logits, _store_rows


@triton.jit
def _grad_query_step(
    b_query, b_grad, b_lse, b_delta, b_key, b_value, present, scale_log2, scale, b_sum,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds the part of keys and values [K, D] to dq [Q, D].

    `present` [Q, K] or [1, K]; None: all are there.
    """
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
    p_query, p_key, p_value, p_landmarks, p_landmark_values, p_mean_keys, p_bias, p_indices,
    p_grad, p_lse, p_delta, p_route_of_slot, p_tiles, p_grad_query,
    s_query_b, s_query_h, s_query_n, s_query_d, s_key_b, s_key_h, s_key_n, s_key_d,
    s_value_b, s_value_h, s_value_n, s_value_d,
    s_landmarks_b, s_landmarks_h, s_landmarks_m, s_landmarks_d,
    s_grad_b, s_grad_h, s_grad_n, s_grad_d,
    s_grad_query_b, s_grad_query_h, s_grad_query_n, s_grad_query_d,
    heads, num_tokens, num_routed, num_tiles, num_routes,
    scale_log2, scale, landmark_scale_log2, landmark_scale, offset_log2,
    num_landmarks: tl.constexpr, topk: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    TILE_HEIGHT: tl.constexpr, BLOCK_K: tl.constexpr,
    SHARED: tl.constexpr, ROUTED: tl.constexpr, REMAINDER: tl.constexpr, PARTIAL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dq of a tile of queries, from all of its experts. Grid (tiles, B H).

    Writes dq [B, H, N, D], or [B H, N s, D] with s > 1.
    """
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, local = head // heads, head % heads
    o_q, o_k = tl.arange(0, TILE_HEIGHT), tl.arange(0, BLOCK_K)
    if ROUTED:
        if tile >= tl.load(p_tiles + head * (num_tiles + 1) + num_tiles):  # in use
            return
        packed = tl.load(p_tiles + head * (num_tiles + 1) + tile)
        count, expert = packed % 256, packed // 256
        q_mask = o_q < count
        o_route = tl.load(
            p_route_of_slot + (head * num_tiles + tile) * TILE_HEIGHT + o_q, mask=q_mask
        )
        o_route = tl.where(q_mask, o_route, 0)
    else:
        o_route = tile * TILE_HEIGHT + o_q
        q_mask = o_route < num_routes
    o_n = o_route // num_routed

    p_query += batch * s_query_b + local * s_query_h
    b_query = _load_rows(p_query, o_n, s_query_n, s_query_d, q_mask, D, BLOCK_D, WIDE)  # [Q, D]
    p_grad += batch * s_grad_b + local * s_grad_h
    b_grad = _load_rows(p_grad, o_n, s_grad_n, s_grad_d, q_mask, D, BLOCK_D, WIDE)  # [Q, D]
    b_lse = tl.load(p_lse + head * num_tokens + o_n, mask=q_mask, other=0.0)
    b_delta = tl.load(p_delta + head * num_tokens + o_n, mask=q_mask, other=0.0)
    b_sum = tl.zeros([TILE_HEIGHT, BLOCK_D], dtype=tl.float32)
    if SHARED:
        p_landmarks += batch * s_landmarks_b + local * s_landmarks_h
        p_landmark_values += head * num_landmarks * D
        for first in range(0, num_landmarks, BLOCK_K):
            o_m = first + o_k
            m_mask = None if num_landmarks % BLOCK_K == 0 else o_m < num_landmarks
            b_key = _load_rows(
                p_landmarks, o_m, s_landmarks_m, s_landmarks_d, m_mask, D, BLOCK_D
            )  # [K, D]
            b_value = _load_rows(p_landmark_values, o_m, D, 1, m_mask, D, BLOCK_D)
            if PARTIAL:  # the shared expert counts once: with the first expert of a query
                present = (o_m < num_landmarks)[None, :] & (o_route % num_routed == 0)[:, None]
            else:
                present = None if m_mask is None else m_mask[None, :]
            b_sum = _grad_query_step(
                b_query, b_grad, _less_offset(b_lse, offset_log2, PRECISION), b_delta, b_key,
                b_value, present, landmark_scale_log2, landmark_scale, b_sum, PRECISION,
            )  # fmt: skip
    if REMAINDER:
        o_d = tl.arange(0, BLOCK_D)
        row = head * num_landmarks + expert
        b_mean_key = tl.load(p_mean_keys + row * D + o_d, mask=o_d < D, other=0.0).to(tl.float32)
        b_mean_value = tl.load(p_landmark_values + row * D + o_d, mask=o_d < D, other=0.0)
        b_logits = _remainder_logits(
            b_query, b_mean_key, tl.load(p_bias + row), scale_log2, PRECISION
        )
        b_weights = tl.exp2((b_logits - b_lse).to(tl.float32))  # [Q]
        b_inner = tl.sum(b_grad.to(tl.float32) * b_mean_value.to(tl.float32)[None, :], 1)
        b_sum = (b_weights * (b_inner - b_delta) * scale)[:, None] * b_mean_key[None, :]
    if ROUTED:
        p_key += batch * s_key_b + local * s_key_h
        p_value += batch * s_value_b + local * s_value_h
        p_indices += (head * num_landmarks + expert) * topk
        o_key = tl.load(p_indices + o_k, mask=o_k < topk, other=0)
        for first in range(0, topk, BLOCK_K):
            k_mask = None if topk % BLOCK_K == 0 else first + o_k < topk
            o_next = first + BLOCK_K + o_k
            b_key = _load_rows(p_key, o_key, s_key_n, s_key_d, k_mask, D, BLOCK_D, WIDE)  # [K, D]
            b_value = _load_rows(p_value, o_key, s_value_n, s_value_d, k_mask, D, BLOCK_D, WIDE)
            b_sum = _grad_query_step(
                b_query, b_grad, b_lse, b_delta, b_key, b_value,
                None if k_mask is None else k_mask[None, :], scale_log2, scale, b_sum, PRECISION,
            )  # fmt: skip
            o_key = tl.load(p_indices + o_next, mask=o_next < topk, other=0)  # the next block's

    if PARTIAL:  # [B H, N s, D], summed over s afterwards
        _store_rows(p_grad_query, b_sum, head * num_routes + o_route, D, 1, q_mask, D, BLOCK_D)
    else:
        p_grad_query += batch * s_grad_query_b + local * s_grad_query_h
        _store_rows(
            p_grad_query, b_sum, o_n, s_grad_query_n, s_grad_query_d, q_mask, D, BLOCK_D, WIDE
        )


@triton.jit
def _sum_routes_kernel(
    p_part, p_out,
    s_out_b, s_out_h, s_out_n, s_out_d,
    heads, num_tokens, num_routed,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Sums of each query's s routes: part [B H, N s, D] -> out [B, H, N, D]"""
    head = tl.program_id(1).to(tl.int64)
    o_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = o_n < num_tokens
    o_route = (head * num_tokens + o_n) * num_routed
    b_out = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    for j in range(num_routed):
        b_out += _load_rows(p_part, o_route + j, D, 1, n_mask, D, BLOCK_D).to(tl.float32)
    p_out += head // heads * s_out_b + head % heads * s_out_h
    _store_rows(p_out, b_out, o_n, s_out_n, s_out_d, n_mask, D, BLOCK_D, WIDE)


def grad_query_alone(
    plan: Plan, grad_query: Tensor, query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor,
    grad: Tensor, delta: Tensor, state: State, options: MiTAOptions, blocks: Blocks, wide: bool,
) -> None:  # fmt: skip
    """Writes the gradient of the queries [B, H, N, d] in a pass of its own."""
    batch, heads, tokens, dim = query.shape
    topk, num_routed = options.topk, options.num_routed
    scale, landmark_scale = options.scale, options.landmark_scale
    all_heads, num_routes, lse = batch * heads, tokens * num_routed, state.lse
    routed, partial = topk > 0, num_routed > 1
    part_query = grad_query
    if partial:
        part_query = plan.scratch(all_heads, num_routes, dim, dtype=query.dtype)
    num_tiles = state.tiles.shape[1] - 1 if routed else cdiv(tokens, blocks.tile_height)
    plan.launch(
        _query_backward_kernel, (num_tiles, all_heads),
        query, key, value, landmarks, state.values, state.mean_keys, state.bias, state.indices,
        grad, lse, delta, state.route_of_slot, state.tiles, part_query,
        *query.stride(), *key.stride(), *value.stride(), *landmarks.stride(), *grad.stride(),
        *grad_query.stride(),
        heads, tokens, num_routed, num_tiles, num_routes,
        scale * LOG2E, scale, landmark_scale * LOG2E, landmark_scale,
        options.shared_offset * LOG2E, landmarks.shape[2], topk,
        D=dim, BLOCK_D=blocks.dim, WIDE=wide,
        TILE_HEIGHT=blocks.tile_height, BLOCK_K=min(blocks.query_backward.block, blocks.keys),
        SHARED=options.shared, ROUTED=routed, REMAINDER=options.remainder, PARTIAL=partial,
        PRECISION=precision(query.dtype), **blocks.query_backward.triton_options,
    )  # fmt: skip
    if partial:
        plan.launch(
            _sum_routes_kernel, (cdiv(tokens, MERGE_TOKENS), all_heads),
            part_query, grad_query, *grad_query.stride(), heads, tokens, num_routed,
            D=dim, BLOCK_D=blocks.dim, WIDE=wide, BLOCK_N=MERGE_TOKENS,
        )  # fmt: skip
