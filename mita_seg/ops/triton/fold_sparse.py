"""As `fold`, where experts hold fewer keys than there are: only those keys are touched.

Entries that are the same key are added up by a product with a 0/1 matrix, and the first of them
adds the sum to the key. Reads 2 m k d values a head, and reads and writes as much of dk and dv at
most.
"""

import triton
import triton.language as tl

from .steps import _load_rows, _store_rows


@triton.jit(do_not_specialize=['first_head'])
def _fold_sparse_kernel(
    p_start, p_entry_key, p_entry_grad_key, p_entry_grad_value, p_grad_key, p_grad_value,
    sx_b, sx_h, sx_n, sx_d, sy_b, sy_h, sy_n, sy_d,
    first_head, heads, num_entries, num_blocks, blocks_per_program,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_E: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    block, part = tl.program_id(0) * blocks_per_program, tl.program_id(1).to(tl.int64)
    head = first_head + part
    p_start += head * (num_blocks + 1)
    start = tl.load(p_start + block)
    end = tl.load(p_start + min(block + blocks_per_program, num_blocks))
    batch, local = head // heads, head % heads
    p_grad_key += batch * sx_b + local * sx_h
    p_grad_value += batch * sy_b + local * sy_h
    p_entry_key += part * num_entries
    p_entry_grad_key += part * num_entries * D
    p_entry_grad_value += part * num_entries * D
    o_block = tl.arange(0, BLOCK_E)
    earlier = o_block[None, :] < o_block[:, None]
    for first in range(start, end, BLOCK_E):
        o_e = first + o_block
        e_mask = o_e < end
        b_index = tl.load(p_entry_key + o_e, mask=e_mask, other=-1)
        b_keys = _load_rows(p_entry_grad_key, o_e, D, 1, e_mask, D, BLOCK_D)  # [E, D]
        b_values = _load_rows(p_entry_grad_value, o_e, D, 1, e_mask, D, BLOCK_D)  # [E, D]
        b_grad_key = _load_rows(p_grad_key, b_index, sx_n, sx_d, e_mask, D, BLOCK_D, WIDE)
        b_grad_value = _load_rows(p_grad_value, b_index, sy_n, sy_d, e_mask, D, BLOCK_D, WIDE)
        same = b_index[:, None] == b_index[None, :]  # [E, E]
        is_first = tl.sum((same & earlier).to(tl.int32), 1) == 0
        b_same = same.to(b_keys.dtype)
        b_sum = tl.dot(b_same, b_keys, input_precision=PRECISION) + b_grad_key.to(tl.float32)
        _store_rows(p_grad_key, b_sum, b_index, sx_n, sx_d, e_mask & is_first, D, BLOCK_D, WIDE)
        b_sum = tl.dot(b_same, b_values, input_precision=PRECISION) + b_grad_value.to(tl.float32)
        _store_rows(p_grad_value, b_sum, b_index, sy_n, sy_d, e_mask & is_first, D, BLOCK_D, WIDE)
        tl.debug_barrier()  # the next entries may be the same keys
