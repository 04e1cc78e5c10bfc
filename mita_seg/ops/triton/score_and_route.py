"""Scores of the keys under the landmarks, beside the closest landmarks of each query.

One launch does both: keys are scored while queries find where they go. Reads q, k and v once;
writes the scores (float32, 4 m bytes a token), 8 bytes a query and expert, and a few rows a split.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..options import MiTAOptions
from .blocks import PROBE_QUERIES, Blocks
from .call_plan import Plan
from .launch import LOG2E, cdiv, precision
from .steps import _dot, _load_rows, _logits, _scaled_sum, _store_rows


@triton.jit
def _score_keys(
    split, landmark_block, head,
    p_key, p_value, p_landmarks, p_scores, p_maxima, p_part, p_part_total, p_part_peak,
    sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d, sl_b, sl_h, sl_m, sl_d,
    heads, num_tokens, num_blocks, splits, tokens_per_split, scale_log2,
    num_landmarks: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    KEY_BLOCK: tl.constexpr, SELECT: tl.constexpr, SHARED: tl.constexpr, PRECISION: tl.constexpr,
    STAGES: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """S = L K^T of a block of landmarks and one split of the keys; maxima of blocks; shared values.

    Writes S [B H, m, N] float32, maxima [B H, m, blocks], and of the softmax of c S over the split:
    the weighted sum of values [B H, splits, m, D], its weights' sum and largest logit [.., m].
    """
    batch, local = head // heads, head % heads
    p_key += batch * sk_b + local * sk_h
    p_value += batch * sv_b + local * sv_h
    p_landmarks += batch * sl_b + local * sl_h
    p_scores += head * num_landmarks * num_tokens
    p_maxima += head * num_landmarks * num_blocks

    o_m = landmark_block * BLOCK_M + tl.arange(0, BLOCK_M)
    m_mask = o_m < num_landmarks
    b_landmarks = _load_rows(p_landmarks, o_m, sl_m, sl_d, m_mask, D, BLOCK_D)  # [M, D]
    b_peak = tl.full([BLOCK_M], float('-inf'), dtype=tl.float32)
    b_total = tl.zeros([BLOCK_M], dtype=tl.float32)
    b_out = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    begin = split * tokens_per_split
    end = min(begin + tokens_per_split, num_tokens)
    for first in tl.range(begin, end, BLOCK_N, num_stages=STAGES):
        o_n = first + tl.arange(0, BLOCK_N)
        n_mask = None if EVEN else o_n < num_tokens
        b_key = _load_rows(p_key, o_n, sk_n, sk_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
        b_scores = _dot(b_landmarks, tl.trans(b_key), None, PRECISION)  # [M, N]
        if SELECT:
            p_row = p_scores + o_m.to(tl.int64)[:, None] * num_tokens + o_n[None, :]
            if EVEN:
                tl.store(p_row, b_scores, mask=m_mask[:, None])
            else:
                tl.store(p_row, b_scores, mask=m_mask[:, None] & n_mask[None, :])
        if not EVEN:
            b_scores = tl.where(n_mask[None, :], b_scores, float('-inf'))
        if SELECT and KEY_BLOCK > 1:
            b_blocks = tl.reshape(b_scores, [BLOCK_M, BLOCK_N // KEY_BLOCK, KEY_BLOCK])
            b_maxima = tl.max(b_blocks, 2)  # [M, N / KEY_BLOCK]
            o_b = first // KEY_BLOCK + tl.arange(0, BLOCK_N // KEY_BLOCK)
            p_row_maxima = p_maxima + o_m.to(tl.int64)[:, None] * num_blocks + o_b[None, :]
            tl.store(p_row_maxima, b_maxima, mask=m_mask[:, None] & (o_b < num_blocks)[None, :])
        if SHARED:
            b_value = _load_rows(p_value, o_n, sv_n, sv_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
            b_new = tl.maximum(b_peak, tl.max(b_scores, 1) * scale_log2)
            b_logits = _logits(b_scores, scale_log2, PRECISION)
            b_weights = tl.exp2((b_logits - b_new[:, None]).to(tl.float32))  # [M, N]
            b_shrink = tl.exp2(b_peak - b_new)
            b_total = b_total * b_shrink + tl.sum(b_weights, 1)
            b_product = _dot(b_weights.to(b_value.dtype), b_value, None, PRECISION)  # [M, D]
            b_out = _scaled_sum(b_out, b_shrink[:, None], b_product)
            b_peak = b_new

    if SHARED:
        o_row = (head * splits + split) * num_landmarks + o_m
        _store_rows(p_part, b_out, o_row, D, 1, m_mask, D, BLOCK_D)
        tl.store(p_part_total + o_row, b_total, mask=m_mask)
        tl.store(p_part_peak + o_row, b_peak, mask=m_mask)


@triton.jit
def _find_closest(
    chunk, head, p_query, p_landmarks, p_expert, p_rank, p_counts,
    sq_b, sq_h, sq_n, sq_d, sl_b, sl_h, sl_m, sl_d,
    heads, num_tokens, chunks, chunk_size, num_landmarks: tl.constexpr, num_routed: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, ALL_M: tl.constexpr,
    BLOCK_Q: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Closest landmarks of a chunk of queries, and the rank of each row among those of its expert.

    A row is a query and one of its experts: row n s + j of N s. Writes expert and rank [B H, N s]
    and how many rows of the chunk each expert has [B H, chunks, m]. Ranks count within the chunk,
    in a fixed order and without atomics.
    """
    batch, local = head // heads, head % heads
    p_query += batch * sq_b + local * sq_h
    p_landmarks += batch * sl_b + local * sl_h
    p_expert += head * num_tokens * num_routed
    p_rank += head * num_tokens * num_routed
    o_q, o_all = tl.arange(0, BLOCK_Q), tl.arange(0, ALL_M)

    b_counts = tl.zeros([ALL_M], dtype=tl.int32)  # rows of each expert so far
    begin = chunk * chunk_size
    for first in range(begin, min(begin + chunk_size, num_tokens), BLOCK_Q):
        o_n = first + o_q
        n_mask = o_n < num_tokens
        b_query = _load_rows(p_query, o_n, sq_n, sq_d, n_mask, D, BLOCK_D, WIDE)  # [Q, D]
        b_last_score = tl.full([BLOCK_Q], float('inf'), dtype=tl.float32)
        b_last = tl.full([BLOCK_Q], -1, dtype=tl.int32)
        for j in range(num_routed):
            b_best = tl.full([BLOCK_Q], float('-inf'), dtype=tl.float32)
            b_expert = tl.zeros([BLOCK_Q], dtype=tl.int32)
            for landmark in range(0, num_landmarks, BLOCK_M):
                o_m = landmark + tl.arange(0, BLOCK_M)
                m_mask = o_m < num_landmarks
                b_landmarks = _load_rows(p_landmarks, o_m, sl_m, sl_d, m_mask, D, BLOCK_D)
                b_scores = _dot(b_query, tl.trans(b_landmarks), None, PRECISION)  # [Q, M]
                open_ = m_mask[None, :]
                if num_routed > 1:  # after the last one chosen, by falling score, rising index
                    tied = (b_scores == b_last_score[:, None]) & (o_m[None, :] > b_last[:, None])
                    open_ = open_ & ((b_scores < b_last_score[:, None]) | tied)
                b_scores = tl.where(open_, b_scores, float('-inf'))
                b_max = tl.max(b_scores, 1)
                b_first = tl.where(b_scores == b_max[:, None], o_m[None, :], num_landmarks)
                better = b_max > b_best
                b_expert = tl.where(better, tl.min(b_first, 1), b_expert)
                b_best = tl.where(better, b_max, b_best)
            b_expert = tl.minimum(b_expert, num_landmarks - 1)  # whatever NaN did
            b_last_score, b_last = b_best, b_expert

            same = b_expert[:, None] == b_expert[None, :]  # [Q, Q]
            before = same & (o_q[None, :] < o_q[:, None])
            b_rank = tl.sum(before.to(tl.int32), 1) + tl.gather(b_counts, b_expert, 0)
            o_row = o_n.to(tl.int64) * num_routed + j
            tl.store(p_expert + o_row, b_expert, mask=n_mask)
            tl.store(p_rank + o_row, b_rank, mask=n_mask)
            b_counted = tl.where(n_mask, b_expert, 0)
            b_counts += tl.histogram(b_counted, ALL_M)
            absent = tl.sum(1 - n_mask.to(tl.int32), 0)  # counted under expert 0
            b_counts -= tl.where(o_all == 0, absent, 0)
    p_counts += (head * chunks + chunk) * num_landmarks
    tl.store(p_counts + o_all, b_counts, mask=o_all < num_landmarks)


@triton.jit
def _probe_kernel(
    p_query, p_key, p_value, p_landmarks,
    p_scores, p_maxima, p_part, p_part_total, p_part_peak, p_expert, p_rank, p_counts,
    sq_b, sq_h, sq_n, sq_d, sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d, sl_b, sl_h, sl_m, sl_d,
    heads, num_tokens, num_blocks,
    splits, score_programs, tokens_per_split, chunks, chunk_size, scale_log2,
    num_landmarks: tl.constexpr, num_routed: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, ALL_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_Q: tl.constexpr, KEY_BLOCK: tl.constexpr,
    ROUTED: tl.constexpr, SHARED: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
    EVEN: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Grid (splits of keys times blocks of landmarks, then chunks of queries; B H).

    The first programs of a head score keys, the others find the closest landmarks of queries.
    """
    program = tl.program_id(0)
    # Last head first: of its queries the pooling has left most in the cache.
    head = (tl.num_programs(1) - 1 - tl.program_id(1)).to(tl.int64)
    if program < score_programs:
        _score_keys(
            program % splits, program // splits, head,
            p_key, p_value, p_landmarks, p_scores, p_maxima, p_part, p_part_total, p_part_peak,
            sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d, sl_b, sl_h, sl_m, sl_d,
            heads, num_tokens, num_blocks, splits, tokens_per_split, scale_log2, num_landmarks,
            D, BLOCK_D, WIDE, BLOCK_M, BLOCK_N, KEY_BLOCK, ROUTED, SHARED, PRECISION, STAGES, EVEN,
        )  # fmt: skip
    elif ROUTED:
        _find_closest(
            program - score_programs, head, p_query, p_landmarks, p_expert, p_rank, p_counts,
            sq_b, sq_h, sq_n, sq_d, sl_b, sl_h, sl_m, sl_d,
            heads, num_tokens, chunks, chunk_size, num_landmarks, num_routed,
            D, BLOCK_D, WIDE, BLOCK_M, ALL_M, BLOCK_Q, PRECISION,
        )  # fmt: skip


class Scored(NamedTuple):
    """What one launch finds for the next; what an option leaves out is some tensor all the same."""

    scores: Tensor  # S, float32 [B H, m, N]
    maxima: Tensor  # of blocks of keys [B H, m, blocks]; the scores themselves for blocks of one
    part_values: Tensor  # weighted sums of values, one for each split [B H, splits, m, D]
    part_total: Tensor  # sums of their weights [B H, splits, m]
    part_peak: Tensor  # their largest logits, base 2 [B H, splits, m]
    row_expert: Tensor  # int32 [B H, N s]
    row_rank: Tensor  # among the rows of the expert in the chunk, int32 [B H, N s]
    counts: Tensor  # rows of each expert in each chunk, int32 [B H, chunks, m]


def score_and_route(
    plan: Plan, query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor,
    options: MiTAOptions, blocks: Blocks, wide: bool,
) -> Scored:  # fmt: skip
    """query, key, value [B, H, N, d], landmarks [B, H, m, d]."""
    batch, heads, tokens, dim = key.shape
    num_landmarks, rows = landmarks.shape[2], batch * heads
    num_routed, shared, routed = options.num_routed, options.shared, options.topk > 0
    num_rows = tokens * num_routed
    num_blocks = cdiv(tokens, blocks.key_block)
    chunks = cdiv(tokens, blocks.chunk) if routed else 0
    scores = maxima = part = part_total = part_peak = row_expert = row_rank = counts = query
    if routed:
        scores = plan.scratch(rows, num_landmarks, tokens, dtype=torch.float32)
        row_expert, row_rank = plan.scratch(2, rows, num_rows, dtype=torch.int32)
        counts = plan.scratch(rows, chunks, num_landmarks, dtype=torch.int32)
        maxima = scores
        if blocks.key_block > 1:
            maxima = plan.scratch(rows, num_landmarks, num_blocks, dtype=torch.float32)
    if shared:
        parts = rows, blocks.splits, num_landmarks
        part = plan.scratch(*parts, dim, dtype=torch.float32)
        part_total, part_peak = plan.scratch(2, *parts, dtype=torch.float32)
    score_programs = blocks.splits * cdiv(num_landmarks, blocks.landmarks)
    plan.launch(
        _probe_kernel, (score_programs + chunks, rows),
        query, key, value, landmarks,
        scores, maxima, part, part_total, part_peak, row_expert, row_rank, counts,
        *query.stride(), *key.stride(), *value.stride(), *landmarks.stride(),
        heads, tokens, num_blocks,
        blocks.splits, score_programs, blocks.tokens_per_split, chunks, blocks.chunk,
        options.scale * LOG2E, num_landmarks, num_routed,
        D=dim, BLOCK_D=blocks.dim, BLOCK_M=blocks.landmarks, ALL_M=blocks.all_landmarks,
        BLOCK_N=blocks.probe.rows, BLOCK_Q=PROBE_QUERIES, KEY_BLOCK=blocks.key_block,
        ROUTED=routed, SHARED=shared, PRECISION=precision(key.dtype), STAGES=blocks.probe.stages,
        EVEN=tokens % blocks.probe.rows == 0, WIDE=wide, **blocks.probe.launch,
    )  # fmt: skip
    return Scored(scores, maxima, part, part_total, part_peak, row_expert, row_rank, counts)
