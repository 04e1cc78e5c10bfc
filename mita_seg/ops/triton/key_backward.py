"""Gradients of keys and values through the shared values, in natural order.

Reads k and v and writes dk and dv once. Where one block holds all landmarks, each program also sums
up their gradient over its keys.
"""

import triton
import triton.language as tl

from .steps import _dot, _load_rows, _logits, _store_rows


@triton.jit
def _shared_value_step(
    b_key, b_value, b_landmarks, b_grad_shared, b_lse, b_delta, present, scale_log2,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Softmax weights and gradients of the scores [N, M] of keys under landmarks.

    `present` [N]; None: all keys are there. Absent landmarks, whose rows and numbers are zero, meet
    zeros alone in the products that follow; absent keys might meet infinite weights.
    """
    b_scores = _dot(b_key, tl.trans(b_landmarks), None, PRECISION)  # [N, M]
    b_logits = _logits(b_scores, scale_log2, PRECISION)
    b_weights = tl.exp2((b_logits - b_lse[None, :]).to(tl.float32))
    if present is not None:
        b_weights = tl.where(present[:, None], b_weights, 0.0)
    b_inner = _dot(b_value, tl.trans(b_grad_shared), None, PRECISION)
    b_grad_scores = b_weights * (b_inner - b_delta[None, :])
    return b_weights.to(b_key.dtype), b_grad_scores.to(b_key.dtype)


@triton.jit
def _key_backward_kernel(
    p_key, p_value, p_landmarks, p_landmark_lse, p_grad_values, p_value_delta,
    p_grad_key, p_grad_value, p_part_landmarks,
    sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d, sl_b, sl_h, sl_m, sl_d,
    sx_b, sx_h, sx_n, sx_d, sy_b, sy_h, sy_n, sy_d,
    heads, num_tokens, num_landmarks, splits, tokens_per_split, scale_log2, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
    ONE_BLOCK: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    split, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, local = head // heads, head % heads
    p_key += batch * sk_b + local * sk_h
    p_value += batch * sv_b + local * sv_h
    p_landmarks += batch * sl_b + local * sl_h
    p_grad_key += batch * sx_b + local * sx_h
    p_grad_value += batch * sy_b + local * sy_h
    p_grad_values += head * num_landmarks * D
    p_landmark_lse += head * num_landmarks
    p_value_delta += head * num_landmarks
    o_m = tl.arange(0, BLOCK_M)
    m_mask = o_m < num_landmarks
    if ONE_BLOCK:
        b_landmarks = _load_rows(p_landmarks, o_m, sl_m, sl_d, m_mask, D, BLOCK_D)  # [M, D]
        b_grad_shared = _load_rows(p_grad_values, o_m, D, 1, m_mask, D, BLOCK_D)  # [M, D]
        b_lse = tl.load(p_landmark_lse + o_m, mask=m_mask, other=0.0)
        b_delta = tl.load(p_value_delta + o_m, mask=m_mask, other=0.0)
        b_grad_landmarks = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)

    begin = split * tokens_per_split
    for start in tl.range(
        begin, min(begin + tokens_per_split, num_tokens), BLOCK_N, num_stages=STAGES
    ):
        o_n = start + tl.arange(0, BLOCK_N)
        n_mask = None if EVEN else o_n < num_tokens
        b_key = _load_rows(p_key, o_n, sk_n, sk_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
        b_value = _load_rows(p_value, o_n, sv_n, sv_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
        if ONE_BLOCK:
            b_weights, b_grad_scores = _shared_value_step(
                b_key, b_value, b_landmarks, b_grad_shared, b_lse, b_delta,
                n_mask, scale_log2, PRECISION,
            )  # fmt: skip
            # Not the last dot of a step: see `_scaled_sum`.
            b_grad_landmarks = _dot(tl.trans(b_grad_scores), b_key, b_grad_landmarks, PRECISION)
            b_grad_value = _dot(b_weights, b_grad_shared, None, PRECISION)
            b_grad_key = _dot(b_grad_scores, b_landmarks, None, PRECISION)
        else:
            b_grad_key = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
            b_grad_value = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
            for first in range(0, num_landmarks, BLOCK_M):
                o_m = first + tl.arange(0, BLOCK_M)
                m_mask = o_m < num_landmarks
                b_landmarks = _load_rows(p_landmarks, o_m, sl_m, sl_d, m_mask, D, BLOCK_D)
                b_grad_shared = _load_rows(p_grad_values, o_m, D, 1, m_mask, D, BLOCK_D)
                b_lse = tl.load(p_landmark_lse + o_m, mask=m_mask, other=0.0)
                b_delta = tl.load(p_value_delta + o_m, mask=m_mask, other=0.0)
                b_weights, b_grad_scores = _shared_value_step(
                    b_key, b_value, b_landmarks, b_grad_shared, b_lse, b_delta,
                    n_mask, scale_log2, PRECISION,
                )  # fmt: skip
                b_grad_value = _dot(b_weights, b_grad_shared, b_grad_value, PRECISION)
                b_grad_key = _dot(b_grad_scores, b_landmarks, b_grad_key, PRECISION)
        _store_rows(p_grad_key, b_grad_key * scale, o_n, sx_n, sx_d, n_mask, D, BLOCK_D, WIDE)
        _store_rows(p_grad_value, b_grad_value, o_n, sy_n, sy_d, n_mask, D, BLOCK_D, WIDE)

    if ONE_BLOCK:
        o_part = (head * splits + split) * num_landmarks + o_m
        _store_rows(p_part_landmarks, b_grad_landmarks * scale, o_part, D, 1, m_mask, D, BLOCK_D)
