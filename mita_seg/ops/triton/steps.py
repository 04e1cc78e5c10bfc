"""What several kernels do with a block: loading rows, and one step of a softmax each way.

Names: p_ pointer, b_ block of values, o_ offsets. Q, K, D: queries, keys and head dimension of a
block. Logits are in base 2, as exp2 is the instruction that the hardware has.
"""

import triton
import triton.language as tl


@triton.jit
def _load_rows(
    p_base, o_rows, stride_n, stride_d, mask, D: tl.constexpr, BLOCK_D: tl.constexpr,
    WIDE: tl.constexpr = False,
):  # fmt: skip
    """Rows `o_rows` [R] of a matrix [.., D]; zero where `mask` [R] is false. None: all are there.

    WIDE: offsets need 64 bits, which cost many instructions.
    """
    o_d = tl.arange(0, BLOCK_D)
    o_rows = o_rows.to(tl.int64) if WIDE else o_rows
    p_rows = p_base + o_rows[:, None] * stride_n + o_d[None, :] * stride_d
    in_row = (o_d < D)[None, :]
    if mask is None:
        b_rows = tl.load(p_rows) if D == BLOCK_D else tl.load(p_rows, mask=in_row, other=0.0)
    elif D == BLOCK_D:
        b_rows = tl.load(p_rows, mask=mask[:, None], other=0.0)
    else:
        b_rows = tl.load(p_rows, mask=mask[:, None] & in_row, other=0.0)
    return b_rows  # [R, D]


@triton.jit
def _store_rows(
    p_base, b_rows, o_rows, stride_n, stride_d, mask, D: tl.constexpr, BLOCK_D: tl.constexpr,
    WIDE: tl.constexpr = False,
):  # fmt: skip
    """The inverse of `_load_rows`, rounded to the dtype of the matrix."""
    o_d = tl.arange(0, BLOCK_D)
    o_rows = o_rows.to(tl.int64) if WIDE else o_rows
    p_rows = p_base + o_rows[:, None] * stride_n + o_d[None, :] * stride_d
    b_rows = b_rows.to(p_base.dtype.element_ty)
    if D == BLOCK_D:
        tl.store(p_rows, b_rows, mask=mask[:, None])
    else:
        tl.store(p_rows, b_rows, mask=mask[:, None] & (o_d < D)[None, :])


@triton.jit
def _attend_step(
    b_query, b_key, b_value, present, scale_log2, b_peak, b_total, b_out, PRECISION: tl.constexpr
):
    """Online softmax over the keys and values [K, D] of one block; `present` [Q, K] or [1, K]."""
    b_logits = tl.dot(b_query, tl.trans(b_key), input_precision=PRECISION)  # [Q, K]
    b_logits = tl.where(present, b_logits * scale_log2, float('-inf'))
    b_new = tl.maximum(b_peak, tl.max(b_logits, 1))  # [Q]
    b_safe = tl.where(b_new == float('-inf'), 0.0, b_new)  # no key yet
    b_weights = tl.exp2(b_logits - b_safe[:, None])
    b_shrink = tl.exp2(b_peak - b_safe)
    b_total = b_total * b_shrink + tl.sum(b_weights, 1)
    b_out = tl.dot(
        b_weights.to(b_value.dtype), b_value,
        acc=b_out * b_shrink[:, None], input_precision=PRECISION,
    )  # fmt: skip
    return b_new, b_total, b_out


@triton.jit
def _backward_step(
    b_query, b_grad, b_lse, b_delta, b_key, b_value, present, scale_log2,
    b_grad_key, b_grad_value, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds what queries [Q, D] give to the keys and values [K, D]; `present` [K].

    Rows of absent queries are zero in `b_query`, `b_grad` and `b_delta`, and so add nothing.
    Returns the two sums, and the gradient of the logits [K, Q]. The scale of the keys' gradient is
    left to the end.
    """
    b_logits = tl.dot(b_key, tl.trans(b_query), input_precision=PRECISION)  # [K, Q]
    b_weights = tl.exp2(b_logits * scale_log2 - b_lse[None, :])
    b_weights = tl.where(present[:, None], b_weights, 0.0)
    b_inner = tl.dot(b_value, tl.trans(b_grad), input_precision=PRECISION)  # [K, Q]
    b_grad_logits = (b_weights * (b_inner - b_delta[None, :])).to(b_key.dtype)
    b_grad_value = tl.dot(
        b_weights.to(b_grad.dtype), b_grad, acc=b_grad_value, input_precision=PRECISION
    )
    b_grad_key = tl.dot(b_grad_logits, b_query, acc=b_grad_key, input_precision=PRECISION)
    return b_grad_key, b_grad_value, b_grad_logits
