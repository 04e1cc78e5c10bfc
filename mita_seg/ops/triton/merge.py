"""Outputs of the s > 1 experts of each query, brought together."""

import triton
import triton.language as tl

from .steps import _load_rows, _store_rows


@triton.jit
def _merge_kernel(
    p_part, p_part_lse, p_out, p_lse,
    so_b, so_h, so_n, so_d,
    heads, num_tokens, num_routed,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Outputs, of a softmax each, as parts of one softmax."""
    head = tl.program_id(1).to(tl.int64)
    o_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = o_n < num_tokens
    o_row = (head * num_tokens + o_n) * num_routed
    b_peak = tl.full([BLOCK_N], float('-inf'), dtype=tl.float32)
    b_total = tl.zeros([BLOCK_N], dtype=tl.float32)
    b_out = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    for j in range(num_routed):
        b_lse = tl.load(p_part_lse + o_row + j, mask=n_mask, other=0.0)
        b_part = _load_rows(p_part, o_row + j, D, 1, n_mask, D, BLOCK_D)  # [N, D]
        b_new = tl.maximum(b_peak, b_lse.to(tl.float32))
        b_shrink, b_weight = tl.exp2(b_peak - b_new), tl.exp2((b_lse - b_new).to(tl.float32))
        b_total = b_total * b_shrink + b_weight
        b_out = b_out * b_shrink[:, None] + b_part.to(tl.float32) * b_weight[:, None]
        b_peak = b_new
    p_out += head // heads * so_b + head % heads * so_h
    _store_rows(p_out, b_out / b_total[:, None], o_n, so_n, so_d, n_mask, D, BLOCK_D, WIDE)
    b_lse = b_peak.to(p_lse.dtype.element_ty) + tl.log2(b_total)
    tl.store(p_lse + head * num_tokens + o_n, b_lse, mask=n_mask)
