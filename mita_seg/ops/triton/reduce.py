"""Sums over splits: gradients of the shared values, and of the landmarks."""

import triton
import triton.language as tl

from .pool import _window
from .steps import _load_rows, _store_rows


@triton.jit
def _sum_splits(
    p_part, o_m, head, splits, num_landmarks,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """part [B H, splits, m, D] -> the sums of landmarks `o_m` [M, D]; zero where there is none.

    BLOCK_S splits are unrolled, so that their loads are on their way at once.
    """
    m_mask = o_m < num_landmarks
    b_sum = tl.zeros([o_m.shape[0], BLOCK_D], dtype=tl.float32)
    for first in range(0, splits, BLOCK_S):
        for i in tl.static_range(BLOCK_S):
            split = first + i
            o_part = (head * splits + split) * num_landmarks + o_m
            b_sum += _load_rows(p_part, o_part, D, 1, m_mask & (split < splits), D, BLOCK_D)
    return b_sum


@triton.jit
def _reduce_values(
    program, head, p_part, p_values, p_grad_values, p_value_delta, num_landmarks, splits,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Gradient dVs of the shared values, and delta = sum(dVs * Vs) of each landmark."""
    o_m = program * BLOCK_M + tl.arange(0, BLOCK_M)
    m_mask = o_m < num_landmarks
    b_sum = _sum_splits(p_part, o_m, head, splits, num_landmarks, D, BLOCK_D, BLOCK_S)
    o_row = head * num_landmarks + o_m
    b_values = _load_rows(p_values, o_row, D, 1, m_mask, D, BLOCK_D)  # [M, D]
    tl.store(p_value_delta + o_row, tl.sum(b_sum * b_values.to(tl.float32), 1), mask=m_mask)
    _store_rows(p_grad_values, b_sum, o_row, D, 1, m_mask, D, BLOCK_D)


@triton.jit
def _reduce_landmarks_kernel(
    p_part, p_key_part, p_out, num_landmarks, splits, height, width, rows, columns,
    AVERAGE: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Landmark gradient: from the output softmax plus, over the keys, through the values.

    AVERAGE: divided by the number of tokens in the landmark's window, for pooled landmarks.
    """
    o_m, head = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.program_id(1).to(tl.int64)
    b_sum = _sum_splits(p_part, o_m, head, splits, num_landmarks, D, BLOCK_D, BLOCK_S)
    b_sum += _sum_splits(p_key_part, o_m, head, splits, num_landmarks, D, BLOCK_D, BLOCK_S)
    if AVERAGE:
        top, bottom = _window(o_m // columns, rows, height)
        left, right = _window(o_m % columns, columns, width)
        b_sum /= ((bottom - top) * (right - left)).to(tl.float32)[:, None]
    o_row = head * num_landmarks + o_m
    _store_rows(p_out, b_sum, o_row, D, 1, o_m < num_landmarks, D, BLOCK_D)
