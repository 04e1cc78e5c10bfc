"""Closest landmarks of each query, and each row's rank among the rows of its expert.

A row is a query and one of its experts: row n s + j of N s. Reads q once; writes 8 bytes a row.
Ranks count within a chunk of queries, in a fixed order and without atomics.
"""

import triton
import triton.language as tl

from .steps import _dot, _load_rows


@triton.jit
def _find_closest(
    chunk, head, p_query, p_landmarks, p_expert, p_rank, p_counts,
    sq_b, sq_h, sq_n, sq_d, sl_b, sl_h, sl_m, sl_d,
    heads, num_tokens, chunks, chunk_size, num_landmarks: tl.constexpr, num_routed: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, ALL_M: tl.constexpr,
    BLOCK_Q: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
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
