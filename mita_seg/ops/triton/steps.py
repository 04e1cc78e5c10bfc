"""What several kernels do with a block: loading rows, and one step of a softmax each way.

Names: p_ pointer, b_ block of values, o_ offsets; s_query_n: stride of the query in dimension n.
The dimensions are b (batch), h (heads), n (tokens), m (landmarks) and d. Q, K, D: queries, keys and
head dimension of a block. A row is a row of a matrix, usually a vector of d numbers.
Logits are in base 2, as exp2 is the instruction that the hardware has.
PRECISION: of products of float32, 'ieee' where the inputs are float32.
"""

import triton
import triton.language as tl


@triton.jit
def _load_rows(
    p_base, o_rows, s_row, s_column, mask, D: tl.constexpr, BLOCK_D: tl.constexpr,
    WIDE: tl.constexpr = False,
):  # fmt: skip
    """Rows `o_rows` [R] of a matrix [.., D]; zero where `mask` [R] is false. None: all are there.

    WIDE: offsets need 64 bits, which cost many instructions.
    """
    o_d = tl.arange(0, BLOCK_D)
    o_rows = o_rows.to(tl.int64) if WIDE else o_rows
    p_rows = p_base + o_rows[:, None] * s_row + o_d[None, :] * s_column
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
    p_base, b_rows, o_rows, s_row, s_column, mask, D: tl.constexpr, BLOCK_D: tl.constexpr,
    WIDE: tl.constexpr = False,
):  # fmt: skip
    """The inverse of `_load_rows`, rounded to the dtype of the matrix."""
    o_d = tl.arange(0, BLOCK_D)
    o_rows = o_rows.to(tl.int64) if WIDE else o_rows
    p_rows = p_base + o_rows[:, None] * s_row + o_d[None, :] * s_column
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

    float32 has no tensor cores: a dot is one chain of roundings, as long as its sum. Pieces of 16,
    the shortest inner dimension of a dot, keep the error near that of plain operations. (Where dk
    and dv are accumulated no pieces are needed: most of the summands are zero.)
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
    """b_left * b_right + b_sum [I, J], in a form that the compiler does not merge into a dot.

    A dot that adds to a sum of the loop runs on into the next step. If it is the last dot of a
    step, ptxas makes all dots of the kernel wait for each other (C7515).
    """
    return tl.fma(b_left, tl.broadcast_to(b_right, b_left.shape), b_sum)


@triton.jit
def _logits(b_scores, scale_log2, PRECISION: tl.constexpr):
    """Scores, scaled. 'ieee': in float64, until a maximum or sum is subtracted.

    Logits of some hundreds, rounded to float32, are off by 1e-5; so would be the exponentials.
    """
    if PRECISION == 'ieee':
        b_scores = b_scores.to(tl.float64)
    return b_scores * scale_log2


@triton.jit
def _less_offset(b_rows, offset_log2, PRECISION: tl.constexpr):
    """What to subtract from logits in place of `b_rows` [R], so that all get an offset.

    That takes an operation a row, not one a logit.
    """
    if PRECISION == 'ieee':
        b_rows = b_rows.to(tl.float64)
    return b_rows - offset_log2


@triton.jit
def _remainder_logits(b_query, b_mean_key, bias, scale_log2, PRECISION: tl.constexpr):
    """Logits [Q] of queries [Q, D] with one remainder, of which the mean key is given [D]."""
    b_scores = tl.sum(b_query.to(tl.float32) * b_mean_key.to(tl.float32)[None, :], 1)
    return _logits(b_scores, scale_log2, PRECISION) + bias


@triton.jit
def _keep_largest(b_scores, o_columns, num_columns, b_best, b_index):
    """The largest score of each row [R] so far, and its column; of equal ones the first.

    b_scores [R, C] are of the columns o_columns [C], -inf where they don't count. `b_best` begins
    at -inf. Where scores are NaN the index may be `num_columns`.
    """
    b_max = tl.max(b_scores, 1)
    b_first = tl.where(b_scores == b_max[:, None], o_columns[None, :], num_columns)
    better = b_max > b_best
    b_index = tl.where(better, tl.min(b_first, 1), b_index)
    return tl.where(better, b_max, b_best), b_index


@triton.jit
def _attend_step(
    b_query, b_key, b_value, present, scale_log2, b_row_max, b_row_sum, b_out,
    MAY_BE_EMPTY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Online softmax over the keys and values [K, D] of one block.

    `present` [Q, K] or [1, K]; None: all are there. MAY_BE_EMPTY: a query may have had no key yet.
    """
    b_scores = _dot(b_query, tl.trans(b_key), None, PRECISION)  # [Q, K]
    b_logits = _logits(b_scores, scale_log2, PRECISION)
    if present is not None:
        b_logits = tl.where(present, b_logits, float('-inf'))
    b_new_max = tl.maximum(b_row_max, tl.max(b_logits, 1).to(tl.float32))  # [Q]
    b_safe = b_new_max
    if MAY_BE_EMPTY:
        b_safe = tl.where(b_new_max == float('-inf'), 0.0, b_new_max)
    b_weights = tl.exp2((b_logits - b_safe[:, None]).to(tl.float32))
    b_rescale = tl.exp2(b_row_max - b_safe)
    b_row_sum = b_row_sum * b_rescale + tl.sum(b_weights, 1)
    b_out *= b_rescale[:, None]
    b_out = _dot(b_weights.to(b_value.dtype), b_value, b_out, PRECISION)
    return b_new_max, b_row_sum, b_out


@triton.jit
def _backward_step(
    b_query, b_grad, b_lse, b_delta, b_key, b_value, b_bias, present, scale_log2,
    b_grad_key, b_grad_value, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds the part of queries [Q, D] to dk and dv [K, D].

    `b_bias` [K] is added to the logits, None: zero. `present` [K, 1] or [K, Q], None: all.

    Absent queries are zero in `b_query`, `b_grad` and `b_delta`, and so add nothing. Returns the
    two sums, and the gradient of the logits [K, Q]. The caller multiplies dk by the scale at the
    end.
    """
    b_scores = _dot(b_key, tl.trans(b_query), None, PRECISION)  # [K, Q]
    b_logits = _logits(b_scores, scale_log2, PRECISION)
    if b_bias is not None:
        b_logits += b_bias[:, None]
    b_weights = tl.exp2((b_logits - b_lse[None, :]).to(tl.float32))
    if present is not None:
        b_weights = tl.where(present, b_weights, 0.0)
    b_inner = _dot(b_value, tl.trans(b_grad), None, PRECISION)  # [K, Q]
    b_grad_logits = (b_weights * (b_inner - b_delta[None, :])).to(b_key.dtype)
    b_grad_value = _dot(b_weights.to(b_grad.dtype), b_grad, b_grad_value, PRECISION)
    b_grad_key = _dot(b_grad_logits, b_query, b_grad_key, PRECISION)
    return b_grad_key, b_grad_value, b_grad_logits
