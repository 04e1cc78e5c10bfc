"""Each tile of same-expert queries attends to the shared and its routed expert in one softmax.

Reads q and writes o once, row by row; the rows of the experts come from the L2 cache. A program
goes through many tiles, so that loads of the next ones run during the arithmetic of this one and
the shared expert is loaded once.
"""

import triton
import triton.language as tl
from torch import Tensor

from ..options import MiTAOptions
from .blocks import MERGE_TOKENS, Blocks, share_tiles
from .call_plan import Plan
from .launch import LOG2E, cdiv, precision
from .state import State
from .steps import _attend_step, _dot, _load_rows, _logits, _store_rows


@triton.jit
def _load_indices(p_indices, count: tl.constexpr, BLOCK_K: tl.constexpr):
    """`count` keys of an expert, in pieces [K] of which the last one is filled up with key 0."""
    pieces = ()
    for first in tl.static_range(0, count, BLOCK_K):
        o_k = tl.arange(0, BLOCK_K) + first
        pieces += (tl.load(p_indices + o_k, mask=o_k < count, other=0),)
    return pieces


@triton.jit
def _load_pieces(
    p_base, rows, count: tl.constexpr, stride_n, stride_d, D: tl.constexpr, BLOCK_C: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """`count` rows, whose places come in pieces: of each piece its blocks [K, C] of columns."""
    BLOCK_K: tl.constexpr = rows[0].shape[0]
    pieces = ()
    for i in tl.static_range(len(rows)):
        mask = tl.arange(0, BLOCK_K) + i * BLOCK_K < count
        columns = ()
        for first in tl.static_range(0, D, BLOCK_C):
            columns += (
                _load_rows(
                    p_base + first * stride_d, rows[i], stride_n, stride_d, mask, D - first,
                    BLOCK_C, WIDE,
                ),
            )  # fmt: skip
        pieces += (columns,)
    return pieces


@triton.jit
def _score_pieces(
    b_query, rows, count: tl.constexpr, here, MAY_LACK: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """Scores [Q, K] of each piece, and their largest; MAY_LACK: of queries `here` [Q] alone."""
    BLOCK_K: tl.constexpr = rows[0][0].shape[0]
    b_max = tl.full([b_query.shape[0]], float('-inf'), dtype=tl.float32)
    scores = ()
    for i in tl.static_range(len(rows)):
        b_scores = _dot(b_query, tl.trans(rows[i][0]), None, PRECISION)
        if MAY_LACK or (i + 1) * BLOCK_K > count:
            present = (tl.arange(0, BLOCK_K) + i * BLOCK_K < count)[None, :]
            present = present & here[:, None] if MAY_LACK else present
            b_scores = tl.where(present, b_scores, float('-inf'))
        b_max = tl.maximum(b_max, tl.max(b_scores, 1))
        scores += (b_scores,)
    return scores, b_max


@triton.jit
def _weigh_pieces(
    scores, values, scale_log2, b_peak, b_total, outs, dtype: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds the weights to `b_total` [Q], and values by weight to `outs`; None: nothing yet.

    Sums, like values, come in blocks [Q, C] of columns.
    """
    for i in tl.static_range(len(scores)):
        b_logits = _logits(scores[i], scale_log2, PRECISION)
        b_weights = tl.exp2((b_logits - b_peak[:, None]).to(tl.float32))
        b_sum = tl.sum(b_weights, 1)
        b_total = b_sum if b_total is None else b_total + b_sum
        b_weights = b_weights.to(dtype)
        sums = ()
        for j in tl.static_range(len(values[i])):
            b_out = None if outs is None else outs[j]
            sums += (_dot(b_weights, values[i][j], b_out, PRECISION),)  # [Q, C]
        outs = sums
    return b_total, outs


@triton.jit
def _attend_once(
    b_query, landmarks, landmark_values, keys, values, shared_here,
    scale_log2, landmark_scale_log2, num_landmarks: tl.constexpr, topk: tl.constexpr,
    SHARED: tl.constexpr, ROUTED: tl.constexpr, PARTIAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Softmax over few landmarks and keys, whose scores are all there: nothing is rescaled."""
    if SHARED:
        shared, b_peak = _score_pieces(
            b_query, landmarks, num_landmarks, shared_here, PARTIAL, PRECISION
        )
        b_peak *= landmark_scale_log2
    if ROUTED:
        routed, b_max = _score_pieces(b_query, keys, topk, shared_here, False, PRECISION)
        b_max *= scale_log2
        b_peak = tl.maximum(b_peak, b_max) if SHARED else b_max
    b_total, outs = None, None
    if SHARED:
        b_total, outs = _weigh_pieces(
            shared, landmark_values, landmark_scale_log2, b_peak, b_total, outs,
            b_query.dtype, PRECISION,
        )  # fmt: skip
    if ROUTED:
        b_total, outs = _weigh_pieces(
            routed, values, scale_log2, b_peak, b_total, outs, b_query.dtype, PRECISION
        )
    return b_peak, b_total, outs


@triton.jit
def _attend_kernel(
    p_query, p_key, p_value, p_landmarks, p_landmark_values, p_indices,
    p_row_of_slot, p_tiles, p_out, p_lse,
    sq_b, sq_h, sq_n, sq_d, sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d,
    sl_b, sl_h, sl_m, sl_d, so_b, so_h, so_n, so_d,
    heads, num_routed, num_tiles, num_rows, scale_log2, landmark_scale_log2,
    num_landmarks: tl.constexpr, topk: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
    SHARED: tl.constexpr, ROUTED: tl.constexpr, PARTIAL: tl.constexpr, ONE_BLOCK: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """o = softmax([c_L q L^T, c q K_e^T]) [V_L; V_e], tile by tile. Grid (programs, B H).

    Reads q [B, H, N, D] once, row by row, and the rows of the experts from the L2 cache. Writes
    out [B, H, N, D], or [B H, N s, D] with s > 1, and log2 of the softmax sum [B H, N s]. A program
    goes through many tiles, so that loads of the next ones run during the arithmetic of this one
    and the shared expert is loaded once.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    head = tl.program_id(1).to(tl.int64)
    batch, local = head // heads, head % heads
    p_query += batch * sq_b + local * sq_h
    p_key += batch * sk_b + local * sk_h
    p_value += batch * sv_b + local * sv_h
    p_landmarks += batch * sl_b + local * sl_h
    p_landmark_values += head * num_landmarks * D
    p_indices += head * num_landmarks * topk
    p_row_of_slot += head * num_tiles * BLOCK_Q
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
        landmarks, landmark_values = (), ()
        if SHARED:
            rows = ()
            for first in tl.static_range(0, num_landmarks, BLOCK_K):
                rows += (o_k + first,)
            landmarks = _load_pieces(
                p_landmarks, rows, num_landmarks, sl_m, sl_d, D, BLOCK_D, False
            )
            landmark_values = _load_pieces(
                p_landmark_values, rows, num_landmarks, D, 1, D, BLOCK_C, False
            )

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
            p_row_of_slot + first_tile * BLOCK_Q + o_q, mask=o_q < packed % 256, other=-1
        )  # [Q]
        next_key_rows = _load_indices(p_indices + next_expert * topk, topk, BLOCK_K)
    for tile in tl.range(first_tile, end, num_stages=STAGES):
        o_row = tile * BLOCK_Q + o_q
        o_key = o_k
        q_mask = o_row < num_rows
        if ROUTED and not ONE_BLOCK:
            packed = tl.load(p_tiles + tile)
            expert = packed // 256
            q_mask = o_q < packed % 256
            o_row = tl.load(p_row_of_slot + tile * BLOCK_Q + o_q, mask=q_mask, other=0)
            o_key = tl.load(p_indices + expert * topk + o_k, mask=o_k < topk, other=0)
        elif ROUTED:
            o_row, key_rows = next_row, next_key_rows
            q_mask = o_row >= 0
            next_expert = next_packed // 256
            o_slot = min(tile + 1, end - 1) * BLOCK_Q + o_q
            next_row = tl.load(p_row_of_slot + o_slot, mask=o_q < next_packed % 256, other=-1)
            next_key_rows = _load_indices(p_indices + next_expert * topk, topk, BLOCK_K)
            next_packed = tl.load(p_tiles + min(tile + 2, end - 1))
        o_n = o_row // num_routed
        b_query = _load_rows(p_query, o_n, sq_n, sq_d, q_mask, D, BLOCK_D, WIDE)  # [Q, D]
        shared_here = q_mask
        if PARTIAL:  # with the first expert of a query alone
            shared_here = o_row % num_routed == 0

        if ONE_BLOCK:
            keys, values = (), ()
            if ROUTED:
                keys = _load_pieces(p_key, key_rows, topk, sk_n, sk_d, D, BLOCK_D, WIDE)
                values = _load_pieces(p_value, key_rows, topk, sv_n, sv_d, D, BLOCK_C, WIDE)
            b_peak, b_total, outs = _attend_once(
                b_query, landmarks, landmark_values, keys, values, shared_here,
                scale_log2, landmark_scale_log2, num_landmarks, topk,
                SHARED, ROUTED, PARTIAL, PRECISION,
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
            outs = (b_out,)

        b_scale = (1.0 / b_total)[:, None]
        for j in tl.static_range(len(outs)):
            if PARTIAL:
                _store_rows(
                    p_out + j * BLOCK_C, outs[j] * b_scale, o_row, D, 1, q_mask,
                    D - j * BLOCK_C, BLOCK_C, WIDE=True,
                )  # fmt: skip
            else:
                _store_rows(
                    p_out + j * BLOCK_C * so_d, outs[j] * b_scale, o_n, so_n, so_d, q_mask,
                    D - j * BLOCK_C, BLOCK_C, WIDE,
                )  # fmt: skip
        b_lse = b_peak.to(p_lse.dtype.element_ty) + tl.log2(b_total)
        tl.store(p_lse + o_row, b_lse, mask=q_mask)


@triton.jit
def _merge_kernel(
    p_part, p_part_lse, p_out, p_lse,
    so_b, so_h, so_n, so_d,
    heads, num_tokens, num_routed,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Outputs, of a softmax each, as parts of one softmax."""
    head = tl.program_id(1).to(tl.int64)
    o_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = o_n < num_tokens
    o_row = (head * num_tokens + o_n) * num_routed
    b_peak = tl.full([BLOCK_N], float('-inf'), dtype=tl.float32)
    b_total = tl.zeros([BLOCK_N], dtype=tl.float32)
    b_out = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    for j in range(num_routed):
        b_lse = tl.load(p_part_lse + o_row + j, mask=n_mask, other=0.0)
        b_part = _load_rows(p_part, o_row + j, D, 1, n_mask, D, BLOCK_D)  # [N, D]
        b_new = tl.maximum(b_peak, b_lse.to(tl.float32))
        b_shrink, b_weight = tl.exp2(b_peak - b_new), tl.exp2((b_lse - b_new).to(tl.float32))
        b_total = b_total * b_shrink + b_weight
        b_out = b_out * b_shrink[:, None] + b_part.to(tl.float32) * b_weight[:, None]
        b_peak = b_new
    p_out += head // heads * so_b + head % heads * so_h
    _store_rows(p_out, b_out / b_total[:, None], o_n, so_n, so_d, n_mask, D, BLOCK_D, WIDE)
    b_lse = b_peak.to(p_lse.dtype.element_ty) + tl.log2(b_total)
    tl.store(p_lse + head * num_tokens + o_n, b_lse, mask=n_mask)


def attend(
    plan: Plan, query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor, state: State,
    out: Tensor, options: MiTAOptions, blocks: Blocks, wide: bool,
) -> None:  # fmt: skip
    """Writes the output [B, H, N, d] and the softmax sums."""
    batch, heads, tokens, dim = query.shape
    topk, num_routed, shared = options.topk, options.num_routed, options.shared
    num_landmarks = landmarks.shape[2]
    rows, num_rows = batch * heads, tokens * num_routed
    lse = state.lse
    partial = num_routed > 1
    part_out, part_lse = out, lse
    if partial:
        part_out = plan.scratch(rows, num_rows, dim, dtype=query.dtype)
        part_lse = plan.scratch(rows, num_rows, dtype=lse.dtype)
    routed = topk > 0
    num_tiles = state.tiles.shape[1] - 1 if routed else cdiv(tokens, blocks.height)
    one_block = max(num_landmarks if shared else 0, topk) <= blocks.keys
    programs = num_tiles
    if one_block:
        # On average the last tile of an expert is half full.
        used = cdiv(num_rows, blocks.height) + (num_landmarks // 2 if routed else 0)
        programs = share_tiles(blocks.attend_programs, rows, used)
    launch = blocks.attend if one_block else blocks.attend_several
    plan.launch(
        _attend_kernel, (programs, rows),
        query, key, value, landmarks, state.values, state.indices,
        state.row_of_slot, state.tiles, part_out, part_lse,
        *query.stride(), *key.stride(), *value.stride(), *landmarks.stride(), *out.stride(),
        heads, num_routed, num_tiles, num_rows,
        options.scale * LOG2E, options.landmark_scale * LOG2E, num_landmarks, topk,
        D=dim, BLOCK_D=blocks.dim, BLOCK_Q=blocks.height,
        BLOCK_K=min(launch.rows, blocks.keys), BLOCK_C=blocks.columns if one_block else blocks.dim,
        SHARED=shared, ROUTED=routed, PARTIAL=partial, ONE_BLOCK=one_block,
        PRECISION=precision(query.dtype), STAGES=launch.stages, WIDE=wide, **launch.launch,
    )  # fmt: skip
    if partial:
        plan.launch(
            _merge_kernel, (cdiv(tokens, MERGE_TOKENS), rows),
            part_out, part_lse, out, lse, *out.stride(), heads, tokens, num_routed,
            D=dim, BLOCK_D=blocks.dim, WIDE=wide, BLOCK_N=MERGE_TOKENS,
        )  # fmt: skip
