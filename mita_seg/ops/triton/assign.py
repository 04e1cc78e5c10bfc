"""Experts and tiles, in one launch: keys are selected while rows are sorted and values merged.

The selections of all heads, which take the longest, come first: the others fill in behind them.
"""

import triton
import triton.language as tl

from .place import _place_rows
from .select import _merge_values, _select_keys


@triton.jit
def _assign_kernel(
    p_scores, p_maxima, p_blocks, p_indices, p_part, p_part_total, p_part_peak, p_values, p_lse,
    p_expert, p_rank, p_counts, p_row_of_slot, p_tiles, p_first_tile,
    all_heads, num_tokens, num_blocks, topk, splits, num_landmarks,
    num_rows, chunks, rows_per_chunk, num_tiles, select_programs, place_programs,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, KEY_BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr, HEIGHT: tl.constexpr, ALL_M: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_T: tl.constexpr,
    ROUTED: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    program, head = tl.program_id(0) // all_heads, (tl.program_id(0) % all_heads).to(tl.int64)
    if program < select_programs:
        if ROUTED:
            _select_keys(
                head * num_landmarks + program, p_scores, p_maxima, p_blocks, p_indices,
                num_tokens, num_blocks, topk, KEY_BLOCK, BLOCK_K, BLOCK_B,
            )  # fmt: skip
    elif program < select_programs + place_programs:
        if ROUTED:
            _place_rows(
                program - select_programs, place_programs, head,
                p_expert, p_rank, p_counts, p_row_of_slot, p_tiles, p_first_tile,
                num_rows, num_landmarks, chunks, rows_per_chunk, num_tiles,
                HEIGHT, ALL_M, BLOCK_C, BLOCK_R, BLOCK_T,
            )  # fmt: skip
    elif SHARED:
        _merge_values(
            program - select_programs - place_programs, head,
            p_part, p_part_total, p_part_peak, p_values, p_lse,
            splits, num_landmarks, D, BLOCK_D, BLOCK_S,
        )  # fmt: skip
