"""Landmark pooling, adaptive average windows of the query map, and its gradient.

Blocks of tokens are BLOCK_X columns wide, a power of two, as integer division by anything else is
slow.
"""

import triton
import triton.language as tl
from torch import Tensor

from ..options import Pooling
from ..pooling import adaptive_windows
from .blocks import choose_pool_backward_blocks, choose_pool_blocks
from .call_plan import Plan
from .launch import cdiv, is_wide, next_power_of_2
from .steps import _load_rows, _store_rows


@triton.jit
def window_of(index, count, size):
    """First and last + 1 of what window `index` of `count` covers of an axis of `size`."""
    return index * size // count, ((index + 1) * size + count - 1) // count


@triton.jit
def _pool_kernel(
    p_query, p_landmarks,
    s_query_b, s_query_h, s_query_n, s_query_d,
    heads, start, height, width, landmark_height, landmark_width,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr, ONE_BLOCK: tl.constexpr,
    BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Mean of each window of the map. Grid (windows, B H).

    Reads each patch about once and writes m rows per head. A program takes one window,
    taken row by row,
    without a loop where it is small.
    """
    landmark, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    p_query += head // heads * s_query_b + head % heads * s_query_h
    top, bottom = window_of(landmark // landmark_width, landmark_height, height)
    left, right = window_of(landmark % landmark_width, landmark_width, width)
    o_d = tl.arange(0, BLOCK_D)
    if ONE_BLOCK:
        x = left + tl.arange(0, BLOCK_X)
        b_sums = tl.zeros([BLOCK_X, BLOCK_D], dtype=tl.float32)
        for i in tl.static_range(BLOCK_Y):
            mask = (top + i < bottom) & (x < right)
            o_n = start + (top + i) * width + x
            b_row = _load_rows(p_query, o_n, s_query_n, s_query_d, mask, D, BLOCK_D, WIDE)
            b_sums += b_row.to(tl.float32)  # [X, D]
    else:
        o_t = tl.arange(0, BLOCK_Y * BLOCK_X)
        b_sums = tl.zeros([BLOCK_Y * BLOCK_X, BLOCK_D], dtype=tl.float32)
        steps_x = (right - left + BLOCK_X - 1) // BLOCK_X
        steps_y = (bottom - top + BLOCK_Y - 1) // BLOCK_Y
        for step in tl.range(0, steps_x * steps_y, num_stages=STAGES):
            y = top + step // steps_x * BLOCK_Y + o_t // BLOCK_X
            x = left + step % steps_x * BLOCK_X + o_t % BLOCK_X
            mask = (y < bottom) & (x < right)
            b_rows = _load_rows(
                p_query, start + y * width + x, s_query_n, s_query_d, mask, D, BLOCK_D, WIDE
            )
            b_sums += b_rows.to(tl.float32)  # [T, D]
    b_sum = tl.sum(b_sums, 0) / ((bottom - top) * (right - left))
    p_out = p_landmarks + (head * landmark_height * landmark_width + landmark) * D + o_d
    tl.store(p_out, b_sum.to(p_out.dtype.element_ty), mask=o_d < D)


def pool(plan: Plan, query: Tensor, landmarks: Tensor, pooling: Pooling) -> None:
    """query [B, H, N, d], any strides -> landmarks [B, H, mh * mw, d], dense"""
    batch, heads, _, dim = query.shape
    blocks = choose_pool_blocks(
        _largest_window(pooling.landmark_height, pooling.height),
        _largest_window(pooling.landmark_width, pooling.width),
    )
    plan.launch(
        _pool_kernel, (pooling.num_landmarks, batch * heads),
        query, landmarks, *query.stride(), heads, pooling.start, pooling.height, pooling.width,
        pooling.landmark_height, pooling.landmark_width,
        D=dim, BLOCK_D=max(16, next_power_of_2(dim)), WIDE=is_wide(query),
        **blocks,
    )  # fmt: skip


def _largest_window(count: int, size: int) -> int:
    """Tokens in the largest of the `count` windows of an axis of `size`."""
    return max(end - begin for begin, end in adaptive_windows(size, count))


def _most_windows(count: int, size: int) -> int:
    """Windows that a token is in, at most."""
    return 1 if size % count == 0 else cdiv(count, size) + 1


@triton.jit
def _pool_backward_kernel(
    p_grad_landmarks, p_grad_query,
    s_grad_landmarks_b, s_grad_landmarks_h, s_grad_landmarks_m, s_grad_landmarks_d,
    s_grad_query_b, s_grad_query_h, s_grad_query_n, s_grad_query_d,
    heads, start, height, width, landmark_height, landmark_width, blocks_x,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr,
    OVERLAP_Y: tl.constexpr, OVERLAP_X: tl.constexpr, AVERAGED: tl.constexpr,
):  # fmt: skip
    """Adds to each patch token the gradients of the windows that it is in.

    Reads m rows per head.
    """
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    p_grad_landmarks += head // heads * s_grad_landmarks_b + head % heads * s_grad_landmarks_h
    p_grad_query += head // heads * s_grad_query_b + head % heads * s_grad_query_h
    o_t = tl.arange(0, BLOCK_Y * BLOCK_X)
    y = block // blocks_x * BLOCK_Y + o_t // BLOCK_X
    x = block % blocks_x * BLOCK_X + o_t % BLOCK_X
    inside = (y < height) & (x < width)
    o_n = start + y * width + x
    b_grad = _load_rows(
        p_grad_query, o_n, s_grad_query_n, s_grad_query_d, inside, D, BLOCK_D, WIDE
    )  # [T, D]
    b_grad = b_grad.to(tl.float32)
    # y is in window i when floor(i h / mh) <= y < ceil((i + 1) h / mh). The first such window is
    # floor(y mh / h); the next ones that begin at y or before follow, OVERLAP_Y at most in all. The
    # same for x.
    first_row, first_column = y * landmark_height // height, x * landmark_width // width
    for i in tl.static_range(OVERLAP_Y):
        row = first_row + i
        in_row = inside & (row < landmark_height) & (row * height < (y + 1) * landmark_height)
        for j in tl.static_range(OVERLAP_X):
            column = first_column + j
            in_window = (
                in_row & (column < landmark_width) & (column * width < (x + 1) * landmark_width)
            )
            b_row = _load_rows(
                p_grad_landmarks, row * landmark_width + column, s_grad_landmarks_m,
                s_grad_landmarks_d, in_window, D, BLOCK_D,
            ).to(tl.float32)  # [T, D]  # fmt: skip
            if not AVERAGED:
                top, bottom = window_of(row, landmark_height, height)
                left, right = window_of(column, landmark_width, width)
                b_row /= ((bottom - top) * (right - left)).to(tl.float32)[:, None]
            b_grad += b_row
    _store_rows(p_grad_query, b_grad, o_n, s_grad_query_n, s_grad_query_d, inside, D, BLOCK_D, WIDE)


def pool_backward(
    plan: Plan, grad_landmarks: Tensor, grad_query: Tensor, pooling: Pooling, *, averaged: bool
) -> None:
    """Adds the landmarks' gradient to that of the queries that they are pooled from.

    grad_landmarks [B, H, mh * mw, d], float32 or the dtype of the query; `averaged`: it is already
    divided by the number of tokens in the windows. grad_query [B, H, N, d].
    """
    batch, heads, _, dim = grad_query.shape
    height, width = pooling.height, pooling.width
    blocks = choose_pool_backward_blocks(width)
    blocks_x = cdiv(width, blocks['BLOCK_X'])
    plan.launch(
        _pool_backward_kernel, (cdiv(height, blocks['BLOCK_Y']) * blocks_x, batch * heads),
        grad_landmarks, grad_query, *grad_landmarks.stride(), *grad_query.stride(),
        heads, pooling.start, height, width, pooling.landmark_height, pooling.landmark_width,
        blocks_x,
        D=dim, BLOCK_D=max(16, next_power_of_2(dim)), WIDE=is_wide(grad_query),
        OVERLAP_Y=_most_windows(pooling.landmark_height, height),
        OVERLAP_X=_most_windows(pooling.landmark_width, width), AVERAGED=averaged, **blocks,
    )  # fmt: skip
