"""What several kernels do with a block: loading rows, and one step of a softmax each way.

Names: p_ pointer, b_ block of values, o_ offsets. Q, K, D: queries, keys and head dimension of a
block. Logits are in base 2, as exp2 is the instruction that the hardware has.
PRECISION: of products of float32, 'ieee' where the inputs are float32.
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
        b_rows = tl.load(p_rows) if D >= BLOCK_D else tl.load(p_rows, mask=in_row, other=0.0)
    elif D >= BLOCK_D:
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
    in_row = (o_d < D)[None, :]
    if mask is None:
        tl.store(p_rows, b_rows, mask=None if D >= BLOCK_D else in_row)
    elif D >= BLOCK_D:
        tl.store(p_rows, b_rows, mask=mask[:, None])
    else:
        tl.store(p_rows, b_rows, mask=mask[:, None] & in_row)


@triton.jit
def _dot(b_left, b_right, b_sum, PRECISION: tl.constexpr):
    """Product of b_left [I, J] and b_right [J, K], plus `b_sum` [I, K] unless that is None.

    float32 has no tensor cores: a dot is one chain of roundings, as long as what it sums. Pieces of
    16, the shortest inner dimension of a dot, keep the error near that of plain operations. (The
    folds need none: most of what they sum is zero.)
    """
    if PRECISION != 'ieee':
        if b_sum is None:
            b_product = tl.dot(b_left, b_right, input_precision=PRECISION)
        else:
            b_product = tl.dot(b_left, b_right, acc=b_sum, input_precision=PRECISION)
    else:
        PIECES: tl.constexpr = b_left.shape[1] // 16
        if PIECES == 1:
            b_product = tl.dot(b_left, b_right, input_precision=PRECISION)
        else:
            b_left = tl.reshape(b_left, [b_left.shape[0], PIECES, 16])
            b_right = tl.reshape(b_right, [PIECES, 16, b_right.shape[1]])
            b_pieces = tl.dot(
                tl.permute(b_left, 1, 0, 2), b_right, input_precision=PRECISION
            )  # [J / 16, I, K]
            b_product = tl.sum(b_pieces, 0)
        if b_sum is not None:
            b_product += b_sum
    return b_product


@triton.jit
def _scaled_sum(b_left, b_right, b_sum):
    """b_left * b_right + b_sum [I, J], which a dot can't take over as its own sum.

    A dot whose sum a loop carries on runs into the next step of the loop. Where it is a step's last
    one, ptxas then makes all dots of the kernel wait for each other (C7515).
    """
    return tl.fma(b_left, tl.broadcast_to(b_right, b_left.shape), b_sum)


@triton.jit
def _logits(b_scores, scale_log2, PRECISION: tl.constexpr):
    """Scores, scaled. 'ieee': float64, until a maximum or sum is subtracted.

    Hundreds rounded to float32 are off by 1e-5, and so would be the exponentials.
    """
    if PRECISION == 'ieee':
        b_scores = b_scores.to(tl.float64)
    return b_scores * scale_log2


@triton.jit
def _attend_step(
    b_query, b_key, b_value, present, scale_log2, b_peak, b_total, b_out,
    MAY_LACK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Online softmax over the keys and values [K, D] of one block.

    `present` [Q, K] or [1, K]; None: all are there. MAY_LACK: whether a query may have no key yet.
    """
    b_scores = _dot(b_query, tl.trans(b_key), None, PRECISION)  # [Q, K]
    b_logits = _logits(b_scores, scale_log2, PRECISION)
    if present is not None:
        b_logits = tl.where(present, b_logits, float('-inf'))
    b_new = tl.maximum(b_peak, tl.max(b_logits, 1).to(tl.float32))  # [Q]
    b_safe = b_new
    if MAY_LACK:
        b_safe = tl.where(b_new == float('-inf'), 0.0, b_new)
    b_weights = tl.exp2((b_logits - b_safe[:, None]).to(tl.float32))
    b_shrink = tl.exp2(b_peak - b_safe)
    b_total = b_total * b_shrink + tl.sum(b_weights, 1)
    b_out *= b_shrink[:, None]
    b_out = _dot(b_weights.to(b_value.dtype), b_value, b_out, PRECISION)
    return b_new, b_total, b_out


@triton.jit
def _backward_step(
    b_query, b_grad, b_lse, b_delta, b_key, b_value, present, scale_log2,
    b_grad_key, b_grad_value, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds what queries [Q, D] give to the keys and values [K, D]; `present` [K], None: all.

    Rows of absent queries are zero in `b_query`, `b_grad` and `b_delta`, and so add nothing.
    Returns the two sums, and the gradient of the logits [K, Q]. The scale of the keys' gradient is
    left to the end.
    """
    b_scores = _dot(b_key, tl.trans(b_query), None, PRECISION)  # [K, Q]
    b_logits = _logits(b_scores, scale_log2, PRECISION)
    b_weights = tl.exp2((b_logits - b_lse[None, :]).to(tl.float32))
    if present is not None:
        b_weights = tl.where(present[:, None], b_weights, 0.0)
    b_inner = _dot(b_value, tl.trans(b_grad), None, PRECISION)  # [K, Q]
    b_grad_logits = (b_weights * (b_inner - b_delta[None, :])).to(b_key.dtype)
    b_grad_value = _dot(b_weights.to(b_grad.dtype), b_grad, b_grad_value, PRECISION)
    b_grad_key = _dot(b_grad_logits, b_query, b_grad_key, PRECISION)
    return b_grad_key, b_grad_value, b_grad_logits
