"""Sums over splits: gradients of the shared values, and of the landmarks."""

import triton
import triton.language as tl

from .pool import _window
from .steps import _load_rows


@triton.jit
def _sum_splits(
    p_part, landmark, head, splits, num_landmarks,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """part [B H, splits, m, D] -> the sum [D] of one landmark."""
    b_sum = tl.zeros([BLOCK_D], dtype=tl.float32)
    for first in range(0, splits, BLOCK_S):
        o_s = first + tl.arange(0, BLOCK_S)
        o_part = (head * splits + o_s) * num_landmarks + landmark
        b_sum += tl.sum(_load_rows(p_part, o_part, D, 1, o_s < splits, D, BLOCK_D), 0)
    return b_sum


@triton.jit
def _reduce_values(
    landmark, head, p_part, p_values, p_grad_values, p_value_delta, num_landmarks, splits,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Gradient dVs of the shared values, and delta = sum(dVs * Vs) of each landmark."""
    b_sum = _sum_splits(p_part, landmark, head, splits, num_landmarks, D, BLOCK_D, BLOCK_S)
    row = head * num_landmarks + landmark
    o_d = tl.arange(0, BLOCK_D)
    b_values = tl.load(p_values + row * D + o_d, mask=o_d < D, other=0.0)
    tl.store(p_value_delta + row, tl.sum(b_sum * b_values.to(tl.float32), 0))
    tl.store(p_grad_values + row * D + o_d, b_sum.to(p_grad_values.dtype.element_ty), mask=o_d < D)


@triton.jit
def _reduce_landmarks_kernel(
    p_part, p_key_part, p_out, num_landmarks, splits, height, width, rows, columns,
    AVERAGE: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Landmark gradient: from the output softmax plus, over the keys, through the values.

    AVERAGE: divided by the number of tokens in the landmark's window, for pooled landmarks.
    """
    landmark, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    b_sum = _sum_splits(p_part, landmark, head, splits, num_landmarks, D, BLOCK_D, BLOCK_S)
    b_sum += _sum_splits(p_key_part, landmark, head, splits, num_landmarks, D, BLOCK_D, BLOCK_S)
    if AVERAGE:
        top, bottom = _window(landmark // columns, rows, height)
        left, right = _window(landmark % columns, columns, width)
        b_sum /= (bottom - top) * (right - left)
    o_d = tl.arange(0, BLOCK_D)
    p_row = p_out + (head * num_landmarks + landmark) * D + o_d
    tl.store(p_row, b_sum.to(p_out.dtype.element_ty), mask=o_d < D)
