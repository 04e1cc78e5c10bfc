"""Gradients of the queries, from those of their s > 1 experts."""

import triton
import triton.language as tl

from .steps import _load_rows, _store_rows


@triton.jit
def _sum_rows_kernel(
    p_part, p_out,
    so_b, so_h, so_n, so_d,
    heads, num_tokens, num_routed,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """part [B H, N s, D], query by query -> out [B, H, N, D]"""
    head = tl.program_id(1).to(tl.int64)
    o_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = o_n < num_tokens
    o_row = (head * num_tokens + o_n) * num_routed
    b_out = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    for j in range(num_routed):
        b_out += _load_rows(p_part, o_row + j, D, 1, n_mask, D, BLOCK_D).to(tl.float32)
    p_out += head // heads * so_b + head % heads * so_h
    _store_rows(p_out, b_out, o_n, so_n, so_d, n_mask, D, BLOCK_D, WIDE)
