"""Landmark pooling: adaptive average windows of the query map, and their gradient.

Forward reads each patch token about once and writes m rows a head. Backward reads the m rows and
writes every token once.
"""

import triton
import triton.language as tl
from torch import Tensor

from .launch import next_power_of_2


@triton.jit
def _pool_kernel(
    p_query, p_landmarks,
    stride_b, stride_h, stride_n, stride_d,
    heads, start, height, width, rows, columns,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    landmark, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    p_query += head // heads * stride_b + head % heads * stride_h
    row, column = landmark // columns, landmark % columns
    top, bottom = row * height // rows, ((row + 1) * height + rows - 1) // rows
    left, right = column * width // columns, ((column + 1) * width + columns - 1) // columns
    window_width = right - left
    tokens = (bottom - top) * window_width

    o_d = tl.arange(0, BLOCK_D)
    b_sum = tl.zeros([BLOCK_D], dtype=tl.float32)
    for first in range(0, tokens, BLOCK_T):
        o_t = first + tl.arange(0, BLOCK_T)
        y, x = top + o_t // window_width, left + o_t % window_width
        o_n = (start + y * width + x).to(tl.int64)
        mask = (o_t < tokens)[:, None] & (o_d < D)[None, :]
        p_rows = p_query + o_n[:, None] * stride_n + o_d[None, :] * stride_d
        b_sum += tl.sum(tl.load(p_rows, mask=mask, other=0.0).to(tl.float32), 0)  # [BLOCK_D]
    p_out = p_landmarks + (head * rows * columns + landmark) * D + o_d
    tl.store(p_out, (b_sum / tokens).to(p_out.dtype.element_ty), mask=o_d < D)


@triton.jit
def _pool_backward_kernel(
    p_grad_landmarks, p_grad_query,
    stride_b, stride_h, stride_j, stride_d,
    heads, num_tokens, start, height, width, rows, columns,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    o_n = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    o_d = tl.arange(0, BLOCK_D)
    patch = o_n - start
    inside = (patch >= 0) & (patch < height * width)
    y, x = patch // width, patch % width
    # Window i holds row y when floor(i h / mh) <= y < ceil((i + 1) h / mh): from floor(y mh / h) on
    # for at most OVERLAP windows.
    first_row, first_column = y * rows // height, x * columns // width
    p_grad_landmarks += head // heads * stride_b + head % heads * stride_h
    b_grad = tl.zeros([BLOCK_T, BLOCK_D], dtype=tl.float32)
    for i in range(OVERLAP):
        row = first_row + i
        top, bottom = row * height // rows, ((row + 1) * height + rows - 1) // rows
        row_holds = inside & (row < rows) & (top <= y) & (y < bottom)
        for j in range(OVERLAP):
            column = first_column + j
            left = column * width // columns
            right = ((column + 1) * width + columns - 1) // columns
            holds = row_holds & (column < columns) & (left <= x) & (x < right)
            count = ((bottom - top) * (right - left)).to(tl.float32)
            p_rows = p_grad_landmarks + (row * columns + column)[:, None] * stride_j
            mask = holds[:, None] & (o_d < D)[None, :]
            b_row = tl.load(p_rows + o_d[None, :] * stride_d, mask=mask, other=0.0)
            b_grad += tl.where(mask, b_row.to(tl.float32) / count[:, None], 0.0)
    p_out = p_grad_query + (head * num_tokens + o_n)[:, None] * D + o_d[None, :]
    mask = (o_n < num_tokens)[:, None] & (o_d < D)[None, :]
    tl.store(p_out, b_grad.to(p_out.dtype.element_ty), mask=mask)


def pool(query: Tensor, grid: tuple[int, int], num_landmarks: tuple[int, int], start: int):
    """query [B, H, N, d], any strides -> landmarks [B, H, mh * mw, d]"""
    batch, heads, _, dim = query.shape
    rows, columns = num_landmarks
    landmarks = query.new_empty(batch, heads, rows * columns, dim)
    window = triton.cdiv(grid[0], rows) * triton.cdiv(grid[1], columns)
    _pool_kernel[(rows * columns, batch * heads)](
        query, landmarks, *query.stride(), heads, start, *grid, rows, columns,
        D=dim, BLOCK_D=next_power_of_2(dim), BLOCK_T=min(64, max(16, next_power_of_2(window))),
    )  # fmt: skip
    return landmarks


def pool_backward(
    grad_landmarks: Tensor,
    num_tokens: int,
    grid: tuple[int, int],
    num_landmarks: tuple[int, int],
    start: int,
) -> Tensor:
    """Gradient of the landmarks [B, H, mh * mw, d] -> of the query [B, H, N, d]"""
    batch, heads, _, dim = grad_landmarks.shape
    grad_query = grad_landmarks.new_empty(batch, heads, num_tokens, dim)
    overlap = max(triton.cdiv(count, size) for count, size in zip(num_landmarks, grid, strict=True))
    block = 64
    _pool_backward_kernel[(triton.cdiv(num_tokens, block), batch * heads)](
        grad_landmarks, grad_query, *grad_landmarks.stride(), heads, num_tokens, start, *grid,
        *num_landmarks, D=dim, BLOCK_D=next_power_of_2(dim), BLOCK_T=block, OVERLAP=overlap + 1,
    )  # fmt: skip
    return grad_query
