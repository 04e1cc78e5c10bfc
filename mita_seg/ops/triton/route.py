"""Closest landmarks of each query, and the queries grouped into tiles of one expert each.

A row is a query and one of its experts: row n s + j of N s. Three kernels make a counting sort by
expert without atomics, so its order is fixed: `_closest_kernel` reads q and counts rows within
chunks of queries, `_offsets_kernel` adds the counts up, `_place_kernel` writes each row's slot.
"""

import triton
import triton.language as tl


@triton.jit
def _closest_kernel(
    p_query, p_landmarks, p_expert, p_rank, p_counts,
    sq_b, sq_h, sq_n, sq_d, sl_b, sl_h, sl_m, sl_d,
    heads, num_tokens, num_landmarks, num_routed, chunks, chunk_size,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    chunk, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, local = head // heads, head % heads
    p_query += batch * sq_b + local * sq_h
    p_landmarks += batch * sl_b + local * sl_h
    p_expert += head * num_tokens * num_routed
    p_rank += head * num_tokens * num_routed

    o_m, o_d = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    m_mask, d_mask = o_m < num_landmarks, o_d < D
    p_landmark_rows = p_landmarks + o_m[:, None] * sl_m + o_d[None, :] * sl_d
    b_landmarks = tl.load(
        p_landmark_rows, mask=m_mask[:, None] & d_mask[None, :], other=0.0
    )  # [M, D]

    b_counts = tl.zeros([BLOCK_M], dtype=tl.int32)
    begin = chunk * chunk_size
    for first in range(begin, min(begin + chunk_size, num_tokens), BLOCK_N):
        o_n = first + tl.arange(0, BLOCK_N)
        n_mask = o_n < num_tokens
        p_rows = p_query + o_n.to(tl.int64)[:, None] * sq_n + o_d[None, :] * sq_d
        b_query = tl.load(p_rows, mask=n_mask[:, None] & d_mask[None, :], other=0.0)
        b_scores = tl.dot(b_query, tl.trans(b_landmarks), input_precision=PRECISION)  # [N, M]
        b_scores = tl.where(m_mask[None, :], b_scores, float('-inf'))
        for j in range(num_routed):
            b_expert = tl.argmax(b_scores, 1, tie_break_left=True)  # [N]
            hit = o_m[None, :] == b_expert[:, None]
            b_scores = tl.where(hit, float('-inf'), b_scores)
            b_hit = (hit & n_mask[:, None]).to(tl.int32)  # [N, M]
            b_before = tl.cumsum(b_hit, 0) - b_hit + b_counts[None, :]
            b_rank = tl.sum(tl.where(hit, b_before, 0), 1)
            b_counts += tl.sum(b_hit, 0)
            o_row = o_n.to(tl.int64) * num_routed + j
            tl.store(p_expert + o_row, b_expert.to(tl.int16), mask=n_mask)
            tl.store(p_rank + o_row, b_rank, mask=n_mask)
    tl.store(p_counts + (head * chunks + chunk) * num_landmarks + o_m, b_counts, mask=m_mask)


@triton.jit
def _offsets_kernel(
    p_counts, p_base, p_first_tile, p_total, p_tile_expert, p_tile_rows,
    num_landmarks, chunks, num_tiles,
    HEIGHT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)
    p_counts += head * chunks * num_landmarks
    p_base += head * chunks * num_landmarks
    o_m, o_c = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_C)
    m_mask = o_m < num_landmarks

    b_total = tl.zeros([BLOCK_M], dtype=tl.int32)
    for first in range(0, chunks, BLOCK_C):
        o_row = (first + o_c)[:, None] * num_landmarks + o_m[None, :]
        mask = (first + o_c < chunks)[:, None] & m_mask[None, :]
        b_total += tl.sum(tl.load(p_counts + o_row, mask=mask, other=0), 0)
    b_tiles = (b_total + HEIGHT - 1) // HEIGHT
    b_last = tl.cumsum(b_tiles, 0)  # [M], exclusive end
    b_first = b_last - b_tiles

    b_running = b_first * HEIGHT
    for first in range(0, chunks, BLOCK_C):
        o_row = (first + o_c)[:, None] * num_landmarks + o_m[None, :]
        mask = (first + o_c < chunks)[:, None] & m_mask[None, :]
        b_counts = tl.load(p_counts + o_row, mask=mask, other=0)  # [C, M]
        b_before = tl.cumsum(b_counts, 0) - b_counts + b_running[None, :]
        tl.store(p_base + o_row, b_before, mask=mask)
        b_running += tl.sum(b_counts, 0)

    o_row = head * num_landmarks + o_m
    tl.store(p_first_tile + o_row, b_first, mask=m_mask)
    tl.store(p_total + o_row, b_total, mask=m_mask)
    for first in range(0, num_tiles, BLOCK_T):
        o_t = first + tl.arange(0, BLOCK_T)
        inside = (b_first[None, :] <= o_t[:, None]) & (o_t[:, None] < b_last[None, :])  # [T, M]
        left = b_total[None, :] - (o_t[:, None] - b_first[None, :]) * HEIGHT
        b_expert = tl.sum(tl.where(inside, o_m[None, :], 0), 1)
        b_rows = tl.sum(tl.where(inside, tl.minimum(left, HEIGHT), 0), 1)  # 0: surplus tile
        mask = o_t < num_tiles
        tl.store(p_tile_expert + head * num_tiles + o_t, b_expert, mask=mask)
        tl.store(p_tile_rows + head * num_tiles + o_t, b_rows, mask=mask)


@triton.jit
def _place_kernel(
    p_expert, p_rank, p_base, p_row_of_slot,
    num_rows, num_landmarks, chunks, rows_per_chunk, num_slots,
    BLOCK: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    o_row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = o_row < num_rows
    b_expert = tl.load(p_expert + head * num_rows + o_row, mask=mask, other=0).to(tl.int32)
    b_rank = tl.load(p_rank + head * num_rows + o_row, mask=mask, other=0)
    o_base = (head * chunks + o_row // rows_per_chunk) * num_landmarks + b_expert
    b_slot = tl.load(p_base + o_base, mask=mask, other=0) + b_rank
    tl.store(p_row_of_slot + head * num_slots + b_slot, o_row, mask=mask)
