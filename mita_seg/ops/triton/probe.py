"""First look at the landmarks, in one launch: keys are scored while queries find their closest."""

import triton
import triton.language as tl

from .closest import _find_closest
from .scores import _score_keys


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
