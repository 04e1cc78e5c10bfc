"""Before the keys: gradients of the shared values, beside the places of entries, in one launch."""

import triton
import triton.language as tl

from .entries import _place_entries
from .reduce import _reduce_values


@triton.jit
def _prepare_keys_kernel(
    p_part, p_values, p_grad_values, p_value_delta, p_indices, p_tiles, p_first_tile,
    p_shift, p_entry_start,
    num_landmarks, splits, reduce_programs, topk, num_blocks, num_tiles, expert_programs,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_M: tl.constexpr,
    SHARED: tl.constexpr, ROUTED: tl.constexpr, KEYS: tl.constexpr, TOPK_BITS: tl.constexpr,
    BLOCK_B: tl.constexpr, ALL_M: tl.constexpr,
):  # fmt: skip
    program, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if program < reduce_programs:
        if SHARED:
            _reduce_values(
                program, head, p_part, p_values, p_grad_values, p_value_delta,
                num_landmarks, splits, D, BLOCK_D, BLOCK_S, BLOCK_M,
            )  # fmt: skip
    elif ROUTED:
        _place_entries(
            program - reduce_programs, head, p_indices, p_tiles, p_first_tile,
            p_shift, p_entry_start, num_landmarks, topk, num_blocks, num_tiles, expert_programs,
            KEYS, TOPK_BITS, BLOCK_B, ALL_M,
        )  # fmt: skip
