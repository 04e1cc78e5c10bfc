"""The first launch of the backward pass: the shared expert's part, beside the places of entries."""

import triton
import triton.language as tl

from .entries import _place_entries
from .shared_backward import _shared_backward


@triton.jit
def _start_backward_kernel(
    p_query, p_grad, p_out, p_lse, p_delta, p_landmarks, p_values,
    p_part_values, p_part_landmarks, p_grad_query, p_indices, p_shift, p_entry_start,
    sq_b, sq_h, sq_n, sq_d, sg_b, sg_h, sg_n, sg_d, so_b, so_h, so_n, so_d,
    sl_b, sl_h, sl_m, sl_d, sx_b, sx_h, sx_n, sx_d,
    heads, num_tokens, num_landmarks, splits, shared_programs, tokens_per_split,
    scale_log2, scale, topk, num_blocks,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_Q: tl.constexpr, KEYS: tl.constexpr, SEARCH_STEPS: tl.constexpr,
    BLOCK_B: tl.constexpr, ALL_M: tl.constexpr, SHARED: tl.constexpr, ROUTED: tl.constexpr,
    WITH_QUERY: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    program, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if program < shared_programs:
        _shared_backward(
            program % splits, program // splits, head,
            p_query, p_grad, p_out, p_lse, p_delta, p_landmarks, p_values,
            p_part_values, p_part_landmarks, p_grad_query,
            sq_b, sq_h, sq_n, sq_d, sg_b, sg_h, sg_n, sg_d, so_b, so_h, so_n, so_d,
            sl_b, sl_h, sl_m, sl_d, sx_b, sx_h, sx_n, sx_d,
            heads, num_tokens, num_landmarks, splits, tokens_per_split, scale_log2, scale,
            D, BLOCK_D, WIDE, BLOCK_M, BLOCK_Q, SHARED, WITH_QUERY, PRECISION, STAGES,
        )  # fmt: skip
    elif ROUTED:
        _place_entries(
            program - shared_programs, head, p_indices, p_shift, p_entry_start,
            num_landmarks, topk, num_blocks, KEYS, SEARCH_STEPS, BLOCK_B, ALL_M,
        )  # fmt: skip
