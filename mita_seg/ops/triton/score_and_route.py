"""Scores of the keys under the landmarks, and routing of the queries to experts, in one launch.

Reads q, k and v once. Writes the scores (float32, 4 m bytes per token), 8 bytes per query and
expert, and a few rows per split.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..options import MiTAOptions
from .blocks import ROUTE_QUERIES, Blocks
from .call_plan import Plan
from .launch import LOG2E, cdiv, precision
from .state import State
from .steps import _dot, _keep_largest, _load_rows, _logits, _scaled_sum, _store_rows


@triton.jit
def _score_keys(
    split, landmark_block, head,
    p_key, p_value, p_landmarks, p_scores, p_maxima, p_part, p_part_sum, p_part_max,
    s_key_b, s_key_h, s_key_n, s_key_d, s_value_b, s_value_h, s_value_n, s_value_d,
    s_landmarks_b, s_landmarks_h, s_landmarks_m, s_landmarks_d,
    s_scores, s_maxima,
    heads, num_tokens, splits, tokens_per_split, scale_log2, num_landmarks: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    KEY_BLOCK: tl.constexpr, SELECT: tl.constexpr, SHARED: tl.constexpr, PRECISION: tl.constexpr,
    STAGES: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """S = L K^T of a block of landmarks and one split of the keys; maxima of blocks; shared values.

    Writes S [B H, m, s_scores] float32 and maxima [B H, m, s_maxima], filled up with -inf to the
    end of the last step. For the softmax of c S it writes, for each split, the weighted sum of
    values [B H, splits, m, D], the sum of the weights and the largest logit [B H, splits, m].
    """
    batch, local = head // heads, head % heads
    p_key += batch * s_key_b + local * s_key_h
    p_value += batch * s_value_b + local * s_value_h
    p_landmarks += batch * s_landmarks_b + local * s_landmarks_h
    p_scores += head * num_landmarks * s_scores
    p_maxima += head * num_landmarks * s_maxima

    o_m = landmark_block * BLOCK_M + tl.arange(0, BLOCK_M)
    m_mask = o_m < num_landmarks
    b_landmarks = _load_rows(
        p_landmarks, o_m, s_landmarks_m, s_landmarks_d, m_mask, D, BLOCK_D
    )  # [M, D]
    b_row_max = tl.full([BLOCK_M], float('-inf'), dtype=tl.float32)
    b_row_sum = tl.zeros([BLOCK_M], dtype=tl.float32)
    b_out = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    begin = split * tokens_per_split
    end = tl.where(split == splits - 1, num_tokens, begin + tokens_per_split)
    for first in tl.range(begin, end, BLOCK_N, num_stages=STAGES):
        o_n = first + tl.arange(0, BLOCK_N)
        n_mask = None if EVEN else o_n < num_tokens
        b_key = _load_rows(p_key, o_n, s_key_n, s_key_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
        b_scores = _dot(b_landmarks, tl.trans(b_key), None, PRECISION)  # [M, N]
        if not EVEN:
            b_scores = tl.where(n_mask[None, :], b_scores, float('-inf'))
        if SELECT:
            p_row = p_scores + o_m.to(tl.int64)[:, None] * s_scores + o_n[None, :]
            tl.store(p_row, b_scores, mask=m_mask[:, None])
        if SELECT and KEY_BLOCK > 1:
            b_blocks = tl.reshape(b_scores, [BLOCK_M, BLOCK_N // KEY_BLOCK, KEY_BLOCK])
            b_maxima = tl.max(b_blocks, 2)  # [M, N / KEY_BLOCK]
            o_b = first // KEY_BLOCK + tl.arange(0, BLOCK_N // KEY_BLOCK)
            p_row_maxima = p_maxima + o_m.to(tl.int64)[:, None] * s_maxima + o_b[None, :]
            tl.store(p_row_maxima, b_maxima, mask=m_mask[:, None])
        if SHARED:
            b_value = _load_rows(
                p_value, o_n, s_value_n, s_value_d, n_mask, D, BLOCK_D, WIDE
            )  # [N, D]
            b_new_max = tl.maximum(b_row_max, tl.max(b_scores, 1) * scale_log2)
            b_logits = _logits(b_scores, scale_log2, PRECISION)
            b_weights = tl.exp2((b_logits - b_new_max[:, None]).to(tl.float32))  # [M, N]
            b_rescale = tl.exp2(b_row_max - b_new_max)
            b_row_sum = b_row_sum * b_rescale + tl.sum(b_weights, 1)
            b_product = _dot(b_weights.to(b_value.dtype), b_value, None, PRECISION)  # [M, D]
            b_out = _scaled_sum(b_out, b_rescale[:, None], b_product)
            b_row_max = b_new_max

    if SHARED:
        o_row = (head * splits + split) * num_landmarks + o_m
        _store_rows(p_part, b_out, o_row, D, 1, m_mask, D, BLOCK_D)
        tl.store(p_part_sum + o_row, b_row_sum, mask=m_mask)
        tl.store(p_part_max + o_row, b_row_max, mask=m_mask)


@triton.jit
def _route_queries(
    chunk, head, p_query, p_landmarks, p_route_expert, p_route_rank, p_counts,
    s_query_b, s_query_h, s_query_n, s_query_d,
    s_landmarks_b, s_landmarks_h, s_landmarks_m, s_landmarks_d,
    heads, num_tokens, chunks, chunk_size, num_landmarks: tl.constexpr, num_routed: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, ALL_M: tl.constexpr,
    BLOCK_Q: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Experts of a chunk of queries, and the rank of each route among those of its expert.

    A route is a query and one of its experts: route n s + j of N s. Writes expert and rank
    [B H, N s], and how many routes of the chunk each expert has [B H, chunks, m]. Ranks count
    within the chunk, in a fixed order and without atomics.
    """
    batch, local = head // heads, head % heads
    p_query += batch * s_query_b + local * s_query_h
    p_landmarks += batch * s_landmarks_b + local * s_landmarks_h
    p_route_expert += head * num_tokens * num_routed
    p_route_rank += head * num_tokens * num_routed
    o_q, o_all = tl.arange(0, BLOCK_Q), tl.arange(0, ALL_M)
    if num_landmarks <= BLOCK_M:  # loaded once
        o_m = tl.arange(0, BLOCK_M)
        b_all = _load_rows(
            p_landmarks, o_m, s_landmarks_m, s_landmarks_d, o_m < num_landmarks, D, BLOCK_D
        )

    b_counts = tl.zeros([ALL_M], dtype=tl.int32)  # routes to each expert so far
    begin = chunk * chunk_size
    end = tl.where(chunk == chunks - 1, num_tokens, begin + chunk_size)
    for first in range(begin, end, BLOCK_Q):
        o_n = first + o_q
        n_mask = o_n < num_tokens
        b_query = _load_rows(p_query, o_n, s_query_n, s_query_d, n_mask, D, BLOCK_D, WIDE)  # [Q, D]
        b_last_score = tl.full([BLOCK_Q], float('inf'), dtype=tl.float32)
        b_last = tl.full([BLOCK_Q], -1, dtype=tl.int32)
        for j in range(num_routed):
            b_best = tl.full([BLOCK_Q], float('-inf'), dtype=tl.float32)
            b_expert = tl.zeros([BLOCK_Q], dtype=tl.int32)
            for landmark in range(0, num_landmarks, BLOCK_M):
                o_m = landmark + tl.arange(0, BLOCK_M)
                m_mask = o_m < num_landmarks
                if num_landmarks <= BLOCK_M:
                    b_landmarks = b_all
                else:
                    b_landmarks = _load_rows(
                        p_landmarks, o_m, s_landmarks_m, s_landmarks_d, m_mask, D, BLOCK_D
                    )
                b_scores = _dot(b_query, tl.trans(b_landmarks), None, PRECISION)  # [Q, M]
                candidate = m_mask[None, :]
                if num_routed > 1:  # after the last one chosen, by falling score, rising index
                    tied = (b_scores == b_last_score[:, None]) & (o_m[None, :] > b_last[:, None])
                    candidate = candidate & ((b_scores < b_last_score[:, None]) | tied)
                b_scores = tl.where(candidate, b_scores, float('-inf'))
                b_best, b_expert = _keep_largest(b_scores, o_m, num_landmarks, b_best, b_expert)
            b_expert = tl.minimum(b_expert, num_landmarks - 1)  # also where scores are NaN
            b_last_score, b_last = b_best, b_expert

            same = b_expert[:, None] == b_expert[None, :]  # [Q, Q]
            before = same & (o_q[None, :] < o_q[:, None])
            b_rank = tl.sum(before.to(tl.int32), 1) + tl.gather(b_counts, b_expert, 0)
            o_route = o_n.to(tl.int64) * num_routed + j
            tl.store(p_route_expert + o_route, b_expert, mask=n_mask)
            tl.store(p_route_rank + o_route, b_rank, mask=n_mask)
            b_counted = tl.where(n_mask, b_expert, 0)
            b_counts += tl.histogram(b_counted, ALL_M)
            absent = tl.sum(1 - n_mask.to(tl.int32), 0)  # counted under expert 0
            b_counts -= tl.where(o_all == 0, absent, 0)
    p_counts += (head * chunks + chunk) * num_landmarks
    tl.store(p_counts + o_all, b_counts, mask=o_all < num_landmarks)


@triton.jit
def _score_and_route_kernel(
    p_query, p_key, p_value, p_landmarks,
    p_scores, p_maxima, p_part, p_part_sum, p_part_max, p_route_expert, p_route_rank, p_counts,
    s_query_b, s_query_h, s_query_n, s_query_d, s_key_b, s_key_h, s_key_n, s_key_d,
    s_value_b, s_value_h, s_value_n, s_value_d,
    s_landmarks_b, s_landmarks_h, s_landmarks_m, s_landmarks_d, s_scores, s_maxima,
    heads, num_tokens, splits, score_programs, tokens_per_split, chunks, chunk_size, scale_log2,
    num_landmarks: tl.constexpr, num_routed: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, ALL_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_Q: tl.constexpr, KEY_BLOCK: tl.constexpr,
    ROUTED: tl.constexpr, SHARED: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
    EVEN: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Grid (splits of keys times blocks of landmarks, then chunks of queries; B H).

    The first programs of a head score keys, the others route queries. The last one of each takes
    what is left of the tokens, which may be more than the others have.
    """
    program = tl.program_id(0)
    # Last head first: the pooling has just read its queries, which are in the cache.
    head = (tl.num_programs(1) - 1 - tl.program_id(1)).to(tl.int64)
    if program < score_programs:
        _score_keys(
            program % splits, program // splits, head,
            p_key, p_value, p_landmarks, p_scores, p_maxima, p_part, p_part_sum, p_part_max,
            s_key_b, s_key_h, s_key_n, s_key_d, s_value_b, s_value_h, s_value_n, s_value_d,
            s_landmarks_b, s_landmarks_h, s_landmarks_m, s_landmarks_d,
            s_scores, s_maxima,
            heads, num_tokens, splits, tokens_per_split, scale_log2, num_landmarks,
            D, BLOCK_D, WIDE, BLOCK_M, BLOCK_N, KEY_BLOCK, ROUTED, SHARED, PRECISION, STAGES, EVEN,
        )  # fmt: skip
    elif ROUTED:
        _route_queries(
            program - score_programs, head,
            p_query, p_landmarks, p_route_expert, p_route_rank, p_counts,
            s_query_b, s_query_h, s_query_n, s_query_d,
            s_landmarks_b, s_landmarks_h, s_landmarks_m, s_landmarks_d,
            heads, num_tokens, chunks, chunk_size, num_landmarks, num_routed,
            D, BLOCK_D, WIDE, BLOCK_M, ALL_M, BLOCK_Q, PRECISION,
        )  # fmt: skip


class Scored(NamedTuple):
    """What one launch finds for the next. What an option leaves out is any tensor, never read."""

    scores: Tensor  # S, float32 [B H, m, N and some more], so that rows are aligned
    maxima: Tensor  # of blocks of keys [B H, m, ..]; the scores themselves for blocks of one
    part_values: Tensor  # weighted sums of values, one for each split [B H, splits, m, D]
    part_sum: Tensor  # sums of their weights [B H, splits, m]
    part_max: Tensor  # their largest logits, base 2 [B H, splits, m]
    route_expert: Tensor  # int32 [B H, N s]
    route_rank: Tensor  # among the routes to the expert in the chunk, int32 [B H, N s]
    counts: Tensor  # routes to each expert in each chunk, int32 [B H, chunks, m]


def score_and_route(
    plan: Plan, query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor,
    state: State, options: MiTAOptions, blocks: Blocks, wide: bool,
) -> Scored:  # fmt: skip
    """query, key, value [B, H, N, d], landmarks [B, H, m, d]; of a remainder the State's routes."""
    batch, heads, tokens, dim = key.shape
    num_landmarks, all_heads = landmarks.shape[2], batch * heads
    num_routed, shared, routed = options.num_routed, options.shared, options.topk > 0
    num_routes = tokens * num_routed
    scores = maxima = part = part_sum = part_max = route_expert = route_rank = counts = query
    if routed:
        columns = blocks.score_columns
        scores = plan.scratch(all_heads, num_landmarks, columns, dtype=torch.float32)
        route_rank = plan.scratch(all_heads, num_routes, dtype=torch.int32)
        route_expert = state.routes
        if not options.remainder:  # else the backward pass needs it too
            route_expert = plan.scratch(all_heads, num_routes, dtype=torch.int32)
        counts = plan.scratch(all_heads, blocks.chunks, num_landmarks, dtype=torch.int32)
        maxima = scores
        if blocks.key_block > 1:
            columns //= blocks.key_block
            maxima = plan.scratch(all_heads, num_landmarks, columns, dtype=torch.float32)
    if shared:
        parts = all_heads, blocks.splits, num_landmarks
        part = plan.scratch(*parts, dim, dtype=torch.float32)
        part_sum, part_max = plan.scratch(2, *parts, dtype=torch.float32)
    score_programs = blocks.splits * cdiv(num_landmarks, blocks.landmarks)
    plan.launch(
        _score_and_route_kernel, (score_programs + blocks.chunks, all_heads),
        query, key, value, landmarks,
        scores, maxima, part, part_sum, part_max, route_expert, route_rank, counts,
        *query.stride(), *key.stride(), *value.stride(), *landmarks.stride(),
        scores.shape[2], maxima.shape[2],
        heads, tokens, blocks.splits, score_programs, blocks.tokens_per_split,
        blocks.chunks, blocks.chunk,
        options.scale * LOG2E, num_landmarks, num_routed,
        D=dim, BLOCK_D=blocks.dim, BLOCK_M=blocks.landmarks,
        # No less than it gathers at a time: Triton 3.3 compiles no other gather to several warps.
        ALL_M=max(blocks.all_landmarks, ROUTE_QUERIES),
        BLOCK_N=blocks.score_and_route.block, BLOCK_Q=ROUTE_QUERIES, KEY_BLOCK=blocks.key_block,
        ROUTED=routed, SHARED=shared, PRECISION=precision(key.dtype),
        STAGES=blocks.score_and_route.stages,
        EVEN=tokens % blocks.score_and_route.block == 0, WIDE=wide,
        **blocks.score_and_route.triton_options,
    )  # fmt: skip
    return Scored(scores, maxima, part, part_sum, part_max, route_expert, route_rank, counts)
