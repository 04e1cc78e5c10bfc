"""Rows sorted by expert, in tiles of one expert each: the second half of a counting sort.

Tiles of an expert follow each other; only its last one is partly filled, and an expert without rows
has an empty one. As many tiles are allotted as the worst case needs, so that shapes don't depend on
the data; how many are in use follows the last one.
"""

import triton
import triton.language as tl


@triton.jit
def _place_rows(
    block, blocks, head, p_expert, p_rank, p_counts, p_row_of_slot, p_tiles, p_first_tile,
    num_rows, num_landmarks, chunks, rows_per_chunk, num_tiles,
    HEIGHT: tl.constexpr, ALL_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_T: tl.constexpr,
):  # fmt: skip
    o_m, o_c = tl.arange(0, ALL_M), tl.arange(0, BLOCK_C)
    p_tiles += head * (num_tiles + 1)
    m_mask = o_m < num_landmarks
    chunk = block * BLOCK_R // rows_per_chunk
    p_counts += head * chunks * num_landmarks
    b_total = tl.zeros([ALL_M], dtype=tl.int32)  # rows of each expert
    b_before = tl.zeros([ALL_M], dtype=tl.int32)  # of these, in chunks before this one
    for first in range(0, chunks, BLOCK_C):
        o_chunk = first + o_c
        mask = (o_chunk < chunks)[:, None] & m_mask[None, :]
        o_count = o_chunk[:, None] * num_landmarks + o_m[None, :]
        b_counts = tl.load(p_counts + o_count, mask=mask, other=0)  # [C, M]
        b_total += tl.sum(b_counts, 0)
        b_before += tl.sum(tl.where((o_chunk < chunk)[:, None], b_counts, 0), 0)
    b_tiles = tl.where(m_mask, tl.maximum((b_total + HEIGHT - 1) // HEIGHT, 1), 0)
    b_end = tl.cumsum(b_tiles, 0)  # [M], the tile after the expert's last
    b_first = b_end - b_tiles

    o_row = block * BLOCK_R + tl.arange(0, BLOCK_R)
    mask = o_row < num_rows
    b_expert = tl.load(p_expert + head * num_rows + o_row, mask=mask, other=0)
    b_rank = tl.load(p_rank + head * num_rows + o_row, mask=mask, other=0)
    b_slot = tl.gather(b_first * HEIGHT + b_before, b_expert, 0) + b_rank
    tl.store(p_row_of_slot + head * num_tiles * HEIGHT + b_slot, o_row, mask=mask)

    for first in range(block * BLOCK_T, num_tiles, blocks * BLOCK_T):
        o_t = first + tl.arange(0, BLOCK_T)
        own = (b_first[None, :] <= o_t[:, None]) & (o_t[:, None] < b_end[None, :])  # [T, M]
        b_left = b_total[None, :] - (o_t[:, None] - b_first[None, :]) * HEIGHT
        b_tile = o_m[None, :] * 256 + tl.minimum(b_left, HEIGHT)
        b_tile = tl.sum(tl.where(own, b_tile, 0), 1)
        tl.store(p_tiles + o_t, b_tile, mask=o_t < num_tiles)
    if block == 0:
        tl.store(p_tiles + num_tiles, tl.sum(b_tiles, 0))
        tl.store(p_first_tile + head * num_landmarks + o_m, b_first, mask=m_mask)
