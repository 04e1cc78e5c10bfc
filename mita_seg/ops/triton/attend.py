"""Each tile of same-expert queries attends to the shared and its routed expert in one softmax.

Reads q and writes o once; the experts' keys and values come from the L2 cache. A program takes many
tiles: it loads the shared expert once, and the next tiles while it computes this one.
"""

import triton
import triton.language as tl
from torch import Tensor

from ..options import MiTAOptions
from .blocks import MERGE_TOKENS, Blocks, share_tiles
from .call_plan import Plan
from .launch import LOG2E, cdiv, precision
from .state import State
from .steps import (
    _attend_step,
    _dot,
    _less_offset,
    _load_rows,
    _logits,
    _remainder_logits,
    _store_rows,
)


@triton.jit
def _split_columns(count: tl.constexpr, BLOCK_K: tl.constexpr):
    """Columns 0 to `count` - 1 in pieces [K] of BLOCK_K; the last one has 16 if that is enough."""
    pieces = ()
    for first in tl.static_range(0, count, BLOCK_K):
        if count - first <= 16:
            pieces += (tl.arange(0, 16) + first,)
        else:
            pieces += (tl.arange(0, BLOCK_K) + first,)
    return pieces


@triton.jit
def _load_indices(p_indices, count: tl.constexpr, BLOCK_K: tl.constexpr):
    """`count` keys of an expert, in pieces [K] of which the last one is filled up with key 0."""
    columns = _split_columns(count, BLOCK_K)
    pieces = ()
    for i in tl.static_range(len(columns)):
        if i * BLOCK_K + columns[i].shape[0] <= count:
            pieces += (tl.load(p_indices + columns[i]),)
        else:
            pieces += (tl.load(p_indices + columns[i], mask=columns[i] < count, other=0),)
    return pieces


@triton.jit
def _load_pieces(
    p_base, places, count: tl.constexpr, s_row, s_column, D: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The `count` rows at `places`, which come in pieces: for each piece its blocks [K, C]."""
    pieces = ()
    for i in tl.static_range(len(places)):
        mask = None
        if i * BLOCK_K + places[i].shape[0] > count:
            mask = tl.arange(0, places[i].shape[0]) + i * BLOCK_K < count
        columns = ()
        for first in tl.static_range(0, D, BLOCK_C):
            columns += (
                _load_rows(
                    p_base + first * s_column, places[i], s_row, s_column, mask, D - first,
                    BLOCK_C, WIDE,
                ),
            )  # fmt: skip
        pieces += (columns,)
    return pieces


@triton.jit
def _load_mixed(
    p_keys, key_places, s_key, s_key_column, keys: tl.constexpr,
    p_landmarks, first_landmark, s_landmark, s_landmark_column, landmarks: tl.constexpr,
    D: tl.constexpr, BLOCK_C: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Blocks [16, C] of one piece: rows of `keys` keys, then of the last `landmarks` landmarks."""
    o_x = tl.arange(0, 16)
    is_key = o_x < keys
    mask = (o_x < keys + landmarks)[:, None]
    key_places = key_places.to(tl.int64) if WIDE else key_places
    o_landmark = first_landmark + tl.maximum(o_x - keys, 0)
    p_key_rows = p_keys + key_places * s_key
    p_landmark_rows = p_landmarks + o_landmark * s_landmark
    columns = ()
    for first in tl.static_range(0, D, BLOCK_C):
        o_c = first + tl.arange(0, BLOCK_C)
        p_rows = tl.where(
            is_key[:, None],
            p_key_rows[:, None] + o_c[None, :] * s_key_column,
            p_landmark_rows[:, None] + o_c[None, :] * s_landmark_column,
        )
        if first + BLOCK_C > D:
            columns += (tl.load(p_rows, mask=mask & (o_c < D)[None, :], other=0.0),)
        else:
            columns += (tl.load(p_rows, mask=mask, other=0.0),)
    return columns


@triton.jit
def _score_pieces(
    b_query, keys, count: tl.constexpr, included, BLOCK_K: tl.constexpr, MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores [Q, K] of each piece, and the largest of each query.

    MASKED: queries that `included` [Q] leaves out get -inf.
    """
    b_max = tl.full([b_query.shape[0]], float('-inf'), dtype=tl.float32)
    scores = ()
    for i in tl.static_range(len(keys)):
        b_scores = _dot(b_query, tl.trans(keys[i][0]), None, PRECISION)
        if MASKED or i * BLOCK_K + keys[i][0].shape[0] > count:
            present = (tl.arange(0, keys[i][0].shape[0]) + i * BLOCK_K < count)[None, :]
            present = present & included[:, None] if MASKED else present
            b_scores = tl.where(present, b_scores, float('-inf'))
        b_max = tl.maximum(b_max, tl.max(b_scores, 1))
        scores += (b_scores,)
    return scores, b_max


@triton.jit
def _score_mixed(
    b_query, rows, with_shared, scale_log2, landmark_scale_log2, offset_log2,
    keys: tl.constexpr, landmarks: tl.constexpr, PARTIAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Logits [Q, 16] of the piece with both keys and landmarks, whose rows come in one block."""
    o_x = tl.arange(0, 16)
    is_key = (o_x < keys)[None, :]
    b_scores = _dot(b_query, tl.trans(rows[0]), None, PRECISION)
    b_logits = tl.where(
        is_key,
        _logits(b_scores, scale_log2, PRECISION),
        _logits(b_scores, landmark_scale_log2, PRECISION) + offset_log2,
    )
    present = (o_x < keys + landmarks)[None, :]
    if PARTIAL:
        present = present & (is_key | with_shared[:, None])
    return tl.where(present, b_logits, float('-inf'))


@triton.jit
def _weigh_pieces(
    scores, scale_log2, b_row_max, b_row_sum, dtype: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """Weights [Q, K] of each piece, and `b_row_sum` [Q] with them added."""
    pieces = ()
    for i in tl.static_range(len(scores)):
        b_logits = _logits(scores[i], scale_log2, PRECISION)
        b_weights = tl.exp2((b_logits - b_row_max[:, None]).to(tl.float32))
        b_row_sum += tl.sum(b_weights, 1)
        pieces += (b_weights.to(dtype),)
    return pieces, b_row_sum


@triton.jit
def _weigh_remainder(b_logits, values, b_row_max):
    """Weights [Q] of the remainder, and its weighted values [Q, C], whose blocks are [C]."""
    b_weights = tl.exp2((b_logits - b_row_max).to(tl.float32))
    sums = ()
    for i in tl.static_range(len(values)):
        sums += (b_weights[:, None] * values[i].to(tl.float32)[None, :],)
    return b_weights, sums


@triton.jit
def _sum_values(weights, values, outs, PRECISION: tl.constexpr):
    """Adds weighted values, which come in the same pieces, to `outs`; None: nothing yet.

    `outs`, like the values of a piece, come in blocks [Q, C] of columns.
    """
    for i in tl.static_range(len(weights)):
        sums = ()
        for j in tl.static_range(len(values[i])):
            b_out = None if outs is None else outs[j]
            sums += (_dot(weights[i], values[i][j], b_out, PRECISION),)
        outs = sums
    return outs


@triton.jit
def _finish_tile(
    weights, values, outs, b_row_max, b_row_sum, p_out, p_lse, s_out_n, s_out_d, o_n, o_route,
    q_mask, D: tl.constexpr, BLOCK_C: tl.constexpr, WIDE: tl.constexpr, PARTIAL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds the weighted values as `_sum_values` does, and writes output and softmax sums."""
    outs = _sum_values(weights, values, outs, PRECISION)
    b_scale = (1.0 / b_row_sum)[:, None]
    for j in tl.static_range(len(outs)):
        if PARTIAL:
            _store_rows(
                p_out + j * BLOCK_C, outs[j] * b_scale, o_route, D, 1, q_mask,
                D - j * BLOCK_C, BLOCK_C, WIDE=True,
            )  # fmt: skip
        else:
            _store_rows(
                p_out + j * BLOCK_C * s_out_d, outs[j] * b_scale, o_n, s_out_n, s_out_d, q_mask,
                D - j * BLOCK_C, BLOCK_C, WIDE,
            )  # fmt: skip
    b_lse = b_row_max.to(p_lse.dtype.element_ty) + tl.log2(b_row_sum)
    tl.store(p_lse + o_route, b_lse, mask=q_mask)


@triton.jit
def _attend_kernel(
    p_query, p_key, p_value, p_landmarks, p_landmark_values, p_mean_keys, p_bias, p_indices,
    p_route_of_slot, p_tiles, p_out, p_lse,
    s_query_b, s_query_h, s_query_n, s_query_d, s_key_b, s_key_h, s_key_n, s_key_d,
    s_value_b, s_value_h, s_value_n, s_value_d,
    s_landmarks_b, s_landmarks_h, s_landmarks_m, s_landmarks_d, s_out_b, s_out_h, s_out_n, s_out_d,
    heads, num_routed, num_tiles, num_routes, scale_log2, landmark_scale_log2, offset_log2,
    num_landmarks: tl.constexpr, topk: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
    SHARED: tl.constexpr, ROUTED: tl.constexpr, REMAINDER: tl.constexpr, PARTIAL: tl.constexpr,
    ONE_BLOCK: tl.constexpr, MIXED: tl.constexpr, VALUES_LATE: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """o = softmax([c_L q L^T + offset, c q K_e^T]) [V_L; V_e], tile by tile. Grid (programs, B H).

    With a remainder, whose keys and values are one row for each expert, that row comes first.
    Reads q [B, H, N, D] once, and the experts' keys and values from the L2 cache. Writes
    out [B, H, N, D], or [B H, N s, D] with s > 1, and log2 of the softmax sum [B H, N s].
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    head = tl.program_id(1).to(tl.int64)
    batch, local = head // heads, head % heads
    p_query += batch * s_query_b + local * s_query_h
    p_key += batch * s_key_b + local * s_key_h
    p_value += batch * s_value_b + local * s_value_h
    p_landmarks += batch * s_landmarks_b + local * s_landmarks_h
    p_landmark_values += head * num_landmarks * D
    p_mean_keys += head * num_landmarks * D
    p_bias += head * num_landmarks
    p_indices += head * num_landmarks * topk
    p_route_of_slot += head * num_tiles * BLOCK_Q
    p_tiles += head * (num_tiles + 1)
    p_lse += head * num_routes
    if PARTIAL:  # [B H, N s, D], for `_merge_kernel`
        p_out += head * num_routes * D
    else:
        p_out += batch * s_out_b + local * s_out_h
    o_q, o_k, o_x = tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_K), tl.arange(0, 16)
    used = num_tiles
    if ROUTED:
        used = tl.load(p_tiles + num_tiles)
        if ONE_BLOCK:  # the first two tiles, which load beside the landmarks
            packed = tl.load(p_tiles + program)
            next_packed = tl.load(p_tiles + min(program + programs, num_tiles - 1))
    MIXED_KEYS: tl.constexpr = topk % 16 if MIXED else 0
    MIXED_LANDMARKS: tl.constexpr = num_landmarks % 16 if MIXED else 0
    ALONE_KEYS: tl.constexpr = topk - MIXED_KEYS  # in pieces of their own
    ALONE_LANDMARKS: tl.constexpr = num_landmarks - MIXED_LANDMARKS
    if ONE_BLOCK:
        landmarks, landmark_values = (), ()
        if SHARED:
            places = _split_columns(ALONE_LANDMARKS, BLOCK_K)
            landmarks = _load_pieces(
                p_landmarks, places, ALONE_LANDMARKS, s_landmarks_m, s_landmarks_d, D, BLOCK_K,
                BLOCK_D, False,
            )  # fmt: skip
            landmark_values = _load_pieces(
                p_landmark_values, places, ALONE_LANDMARKS, D, 1, D, BLOCK_K, BLOCK_C, False
            )

    if program >= used:
        return
    if ROUTED and ONE_BLOCK:
        # A tile's routes and keys, which give the addresses to load, are loaded one tile ahead. (No
        # value goes unchanged from one tile to the next: Triton would give up prefetching.)
        next_expert = packed // 256
        next_route = tl.load(
            p_route_of_slot + program * BLOCK_Q + o_q, mask=o_q < packed % 256, other=-1
        )  # [Q]
        p_expert = p_indices + next_expert * topk
        next_key_places = _load_indices(p_expert, ALONE_KEYS, BLOCK_K)
        if MIXED:
            next_mixed_places = tl.load(p_expert + ALONE_KEYS + o_x, mask=o_x < MIXED_KEYS, other=0)
    for tile in tl.range(program, used, programs, num_stages=STAGES):
        o_route = tile * BLOCK_Q + o_q
        o_key = o_k
        q_mask = o_route < num_routes
        if ROUTED and not ONE_BLOCK:
            packed = tl.load(p_tiles + tile)
            expert = packed // 256
            q_mask = o_q < packed % 256
            o_route = tl.load(p_route_of_slot + tile * BLOCK_Q + o_q, mask=q_mask, other=0)
            o_key = tl.load(p_indices + expert * topk + o_k, mask=o_k < topk, other=0)
        elif ROUTED:
            o_route, key_places = next_route, next_key_places
            expert = next_expert
            q_mask = o_route >= 0
            next_expert = next_packed // 256
            o_slot = min(tile + programs, num_tiles - 1) * BLOCK_Q + o_q
            next_route = tl.load(p_route_of_slot + o_slot, mask=o_q < next_packed % 256, other=-1)
            p_expert = p_indices + next_expert * topk
            next_key_places = _load_indices(p_expert, ALONE_KEYS, BLOCK_K)
            if MIXED:
                mixed_places = next_mixed_places
                next_mixed_places = tl.load(
                    p_expert + ALONE_KEYS + o_x, mask=o_x < MIXED_KEYS, other=0
                )
            next_packed = tl.load(p_tiles + min(tile + 2 * programs, num_tiles - 1))
        o_n = o_route // num_routed
        b_query = _load_rows(p_query, o_n, s_query_n, s_query_d, q_mask, D, BLOCK_D, WIDE)  # [Q, D]
        with_shared = q_mask
        if PARTIAL:  # the shared expert counts once: with the first expert of a query
            with_shared = o_route % num_routed == 0
        b_remainder = None
        remainder_values = ()
        if REMAINDER:
            o_d = tl.arange(0, BLOCK_D)
            b_mean_key = tl.load(p_mean_keys + expert * D + o_d, mask=o_d < D, other=0.0)
            bias = tl.load(p_bias + expert)
            b_remainder = _remainder_logits(b_query, b_mean_key, bias, scale_log2, PRECISION)
            for first in tl.static_range(0, D, BLOCK_C):
                o_c = tl.arange(0, BLOCK_C) + first
                remainder_values += (
                    tl.load(p_landmark_values + expert * D + o_c, mask=o_c < D, other=0.0),
                )

        if ONE_BLOCK:
            keys, values, mixed_keys, mixed_values = (), (), (), ()
            if ROUTED:
                keys = _load_pieces(
                    p_key, key_places, ALONE_KEYS, s_key_n, s_key_d, D, BLOCK_K, BLOCK_D, WIDE
                )
                values = _load_pieces(
                    p_value, key_places, ALONE_KEYS, s_value_n, s_value_d, D, BLOCK_K, BLOCK_C, WIDE
                )
            if MIXED:
                mixed_keys = _load_mixed(
                    p_key, mixed_places, s_key_n, s_key_d, MIXED_KEYS,
                    p_landmarks, ALONE_LANDMARKS, s_landmarks_m, s_landmarks_d, MIXED_LANDMARKS,
                    D, BLOCK_D, WIDE,
                )  # fmt: skip
                mixed_values = _load_mixed(
                    p_value, mixed_places, s_value_n, s_value_d, MIXED_KEYS,
                    p_landmark_values, ALONE_LANDMARKS, D, 1, MIXED_LANDMARKS,
                    D, BLOCK_C, WIDE,
                )  # fmt: skip
            # All scores are there before the softmax begins: nothing is rescaled.
            b_row_max = None
            if SHARED:
                shared, b_row_max = _score_pieces(
                    b_query, landmarks, ALONE_LANDMARKS, with_shared, BLOCK_K, PARTIAL, PRECISION
                )
                b_row_max = b_row_max * landmark_scale_log2 + offset_log2
            if ROUTED:
                routed, b_max = _score_pieces(
                    b_query, keys, ALONE_KEYS, with_shared, BLOCK_K, False, PRECISION
                )
                b_max *= scale_log2
                b_row_max = b_max if b_row_max is None else tl.maximum(b_row_max, b_max)
            if MIXED:
                b_mixed = _score_mixed(
                    b_query, mixed_keys, with_shared,
                    scale_log2, landmark_scale_log2, offset_log2,
                    MIXED_KEYS, MIXED_LANDMARKS, PARTIAL, PRECISION,
                )  # fmt: skip
                b_row_max = tl.maximum(b_row_max, tl.max(b_mixed, 1).to(tl.float32))
            b_row_sum = tl.zeros([BLOCK_Q], dtype=tl.float32)
            outs = None
            if REMAINDER:
                b_row_max = tl.maximum(b_row_max, tl.cast(b_remainder, tl.float32))
                b_row_sum, outs = _weigh_remainder(b_remainder, remainder_values, b_row_max)
            weights, weighted = (), ()
            if SHARED:
                more, b_row_sum = _weigh_pieces(
                    shared, landmark_scale_log2, _less_offset(b_row_max, offset_log2, PRECISION),
                    b_row_sum, b_query.dtype, PRECISION,
                )  # fmt: skip
                weights, weighted = weights + more, weighted + landmark_values
            if ROUTED:
                more, b_row_sum = _weigh_pieces(
                    routed, scale_log2, b_row_max, b_row_sum, b_query.dtype, PRECISION
                )
                weights, weighted = weights + more, weighted + values
            if MIXED:
                more, b_row_sum = _weigh_pieces(
                    (b_mixed,), 1.0, b_row_max, b_row_sum, b_query.dtype, PRECISION
                )
                weights, weighted = weights + more, weighted + (mixed_values,)
            if VALUES_LATE:
                # A branch that is always taken. Triton puts it behind the loads of the next tile,
                # which else would come last in a step, with nothing left to hide them.
                if tile < num_tiles:
                    _finish_tile(
                        weights, weighted, outs, b_row_max, b_row_sum, p_out, p_lse,
                        s_out_n, s_out_d, o_n, o_route, q_mask,
                        D, BLOCK_C, WIDE, PARTIAL, PRECISION,
                    )  # fmt: skip
            else:
                _finish_tile(
                    weights, weighted, outs, b_row_max, b_row_sum, p_out, p_lse,
                    s_out_n, s_out_d, o_n, o_route, q_mask, D, BLOCK_C, WIDE, PARTIAL, PRECISION,
                )  # fmt: skip
        else:
            if REMAINDER:
                b_row_max = tl.cast(b_remainder, tl.float32)
                b_row_sum, outs = _weigh_remainder(b_remainder, remainder_values, b_row_max)
                b_out = outs[0]
            else:
                b_row_max = tl.full([BLOCK_Q], float('-inf'), dtype=tl.float32)
                b_row_sum = tl.zeros([BLOCK_Q], dtype=tl.float32)
                b_out = tl.zeros([BLOCK_Q, BLOCK_D], dtype=tl.float32)
            if SHARED:
                for first in tl.range(0, num_landmarks, BLOCK_K, num_stages=STAGES):
                    o_m = first + o_k
                    m_mask = None if num_landmarks % BLOCK_K == 0 else o_m < num_landmarks
                    b_key = _load_rows(
                        p_landmarks, o_m, s_landmarks_m, s_landmarks_d, m_mask, D, BLOCK_D
                    )
                    b_value = _load_rows(p_landmark_values, o_m, D, 1, m_mask, D, BLOCK_D)
                    if PARTIAL:
                        present = (o_m < num_landmarks)[None, :] & with_shared[:, None]
                    else:
                        present = None if m_mask is None else m_mask[None, :]
                    b_row_max, b_row_sum, b_out = _attend_step(
                        b_query, b_key, b_value, present, landmark_scale_log2,
                        b_row_max, b_row_sum, b_out, PARTIAL, PRECISION,
                    )  # fmt: skip
                b_row_max += offset_log2  # all logits so far are with landmarks
            if ROUTED:
                for first in tl.range(0, topk, BLOCK_K, num_stages=STAGES):
                    k_mask = None if topk % BLOCK_K == 0 else first + o_k < topk
                    o_next = first + BLOCK_K + o_k
                    b_key = _load_rows(p_key, o_key, s_key_n, s_key_d, k_mask, D, BLOCK_D, WIDE)
                    b_value = _load_rows(
                        p_value, o_key, s_value_n, s_value_d, k_mask, D, BLOCK_D, WIDE
                    )
                    present = None if k_mask is None else k_mask[None, :]
                    b_row_max, b_row_sum, b_out = _attend_step(
                        b_query, b_key, b_value, present, scale_log2,
                        b_row_max, b_row_sum, b_out, False, PRECISION,
                    )  # fmt: skip
                    # The next block's, ahead of its loop step.
                    o_key = tl.load(p_indices + expert * topk + o_next, mask=o_next < topk, other=0)
            _finish_tile(  # all values are in the sum
                (), (), (b_out,), b_row_max, b_row_sum, p_out, p_lse,
                s_out_n, s_out_d, o_n, o_route, q_mask, D, BLOCK_C, WIDE, PARTIAL, PRECISION,
            )  # fmt: skip


@triton.jit
def _merge_kernel(
    p_part, p_part_lse, p_out, p_lse,
    s_out_b, s_out_h, s_out_n, s_out_d,
    heads, num_tokens, num_routed,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Brings the outputs of a query's s experts together: parts of one softmax."""
    head = tl.program_id(1).to(tl.int64)
    o_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = o_n < num_tokens
    o_route = (head * num_tokens + o_n) * num_routed
    b_row_max = tl.full([BLOCK_N], float('-inf'), dtype=tl.float32)
    b_row_sum = tl.zeros([BLOCK_N], dtype=tl.float32)
    b_out = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    for j in range(num_routed):
        b_lse = tl.load(p_part_lse + o_route + j, mask=n_mask, other=0.0)
        b_part = _load_rows(p_part, o_route + j, D, 1, n_mask, D, BLOCK_D)  # [N, D]
        b_new_max = tl.maximum(b_row_max, b_lse.to(tl.float32))
        b_rescale, b_weight = (
            tl.exp2(b_row_max - b_new_max),
            tl.exp2((b_lse - b_new_max).to(tl.float32)),
        )
        b_row_sum = b_row_sum * b_rescale + b_weight
        b_out = b_out * b_rescale[:, None] + b_part.to(tl.float32) * b_weight[:, None]
        b_row_max = b_new_max
    p_out += head // heads * s_out_b + head % heads * s_out_h
    _store_rows(p_out, b_out / b_row_sum[:, None], o_n, s_out_n, s_out_d, n_mask, D, BLOCK_D, WIDE)
    b_lse = b_row_max.to(p_lse.dtype.element_ty) + tl.log2(b_row_sum)
    tl.store(p_lse + head * num_tokens + o_n, b_lse, mask=n_mask)


def attend(
    plan: Plan, query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor, state: State,
    out: Tensor, options: MiTAOptions, blocks: Blocks, wide: bool,
) -> None:  # fmt: skip
    """Writes the output [B, H, N, d] and the softmax sums."""
    batch, heads, tokens, dim = query.shape
    topk, num_routed, shared = options.topk, options.num_routed, options.shared
    num_landmarks = landmarks.shape[2]
    all_heads, num_routes = batch * heads, tokens * num_routed
    lse = state.lse
    partial = num_routed > 1
    part_out, part_lse = out, lse
    if partial:
        part_out = plan.scratch(all_heads, num_routes, dim, dtype=query.dtype)
        part_lse = plan.scratch(all_heads, num_routes, dtype=lse.dtype)
    routed = topk > 0
    num_tiles = state.tiles.shape[1] - 1 if routed else cdiv(tokens, blocks.tile_height)
    one_block = max(num_landmarks if shared else 0, topk) <= blocks.keys
    programs = num_tiles
    if one_block:
        # On average the last tile of an expert is half full.
        used = cdiv(num_routes, blocks.tile_height) + (num_landmarks // 2 if routed else 0)
        programs = share_tiles(blocks.attend_programs, all_heads, used)
    launch = blocks.attend if one_block else blocks.attend_several
    plan.launch(
        _attend_kernel, (programs, all_heads),
        query, key, value, landmarks, state.values, state.mean_keys, state.bias, state.indices,
        state.route_of_slot, state.tiles, part_out, part_lse,
        *query.stride(), *key.stride(), *value.stride(), *landmarks.stride(), *out.stride(),
        heads, num_routed, num_tiles, num_routes,
        options.scale * LOG2E, options.landmark_scale * LOG2E, options.shared_offset * LOG2E,
        num_landmarks, topk,
        D=dim, BLOCK_D=blocks.dim, BLOCK_Q=blocks.tile_height,
        BLOCK_K=min(launch.block, blocks.keys),
        BLOCK_C=blocks.value_columns if one_block else blocks.dim,
        SHARED=shared, ROUTED=routed, REMAINDER=options.remainder, PARTIAL=partial,
        ONE_BLOCK=one_block, MIXED=one_block and shared and blocks.mixed,
        VALUES_LATE=blocks.values_late,
        PRECISION=precision(query.dtype), STAGES=launch.stages, WIDE=wide, **launch.triton_options,
    )  # fmt: skip
    if partial:
        plan.launch(
            _merge_kernel, (cdiv(tokens, MERGE_TOKENS), all_heads),
            part_out, part_lse, out, lse, *out.stride(), heads, tokens, num_routed,
            D=dim, BLOCK_D=blocks.dim, WIDE=wide, BLOCK_N=MERGE_TOKENS,
        )  # fmt: skip
