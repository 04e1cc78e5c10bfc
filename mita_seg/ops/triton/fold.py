"""Gradients of the experts' keys and values, added to those of the keys they are.

Entries of a block of keys are a range; they are added up by a product with a 0/1 matrix, the same
for keys and values, instead of atomics. Reads 2 m k d values a head, and reads and writes dk and
dv.
"""

import triton
import triton.language as tl

from .steps import _load_rows, _store_rows


@triton.jit(do_not_specialize=['first_head'])
def _fold_kernel(
    p_start, p_entry_key, p_entry_grad_key, p_entry_grad_value, p_grad_key, p_grad_value,
    sx_b, sx_h, sx_n, sx_d, sy_b, sy_h, sy_n, sy_d,
    first_head, heads, num_tokens, num_entries, num_blocks,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, ADD: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    block, part = tl.program_id(0), tl.program_id(1).to(tl.int64)
    head = first_head + part
    p_start += head * (num_blocks + 1) + block
    start, end = tl.load(p_start), tl.load(p_start + 1)
    if ADD and start == end:
        return
    batch, local = head // heads, head % heads
    p_grad_key += batch * sx_b + local * sx_h
    p_grad_value += batch * sy_b + local * sy_h
    p_entry_key += part * num_entries
    p_entry_grad_key += part * num_entries * D
    p_entry_grad_value += part * num_entries * D
    o_n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = o_n < num_tokens
    b_grad_key = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    b_grad_value = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    if ADD:
        b_shared = _load_rows(p_grad_key, o_n, sx_n, sx_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
        b_grad_key += b_shared.to(tl.float32)
        b_shared = _load_rows(p_grad_value, o_n, sy_n, sy_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
        b_grad_value += b_shared.to(tl.float32)
    for first in range(start, end, BLOCK_E):
        o_e = first + tl.arange(0, BLOCK_E)
        e_mask = o_e < end
        b_index = tl.load(p_entry_key + o_e, mask=e_mask, other=-1)
        b_keys = _load_rows(p_entry_grad_key, o_e, D, 1, e_mask, D, BLOCK_D)  # [E, D]
        b_values = _load_rows(p_entry_grad_value, o_e, D, 1, e_mask, D, BLOCK_D)  # [E, D]
        b_owner = (o_n[:, None] == b_index[None, :]).to(b_keys.dtype)  # [N, E]
        b_grad_key = tl.dot(b_owner, b_keys, acc=b_grad_key, input_precision=PRECISION)
        b_grad_value = tl.dot(b_owner, b_values, acc=b_grad_value, input_precision=PRECISION)
    _store_rows(p_grad_key, b_grad_key, o_n, sx_n, sx_d, n_mask, D, BLOCK_D, WIDE)
    _store_rows(p_grad_value, b_grad_value, o_n, sy_n, sy_d, n_mask, D, BLOCK_D, WIDE)
