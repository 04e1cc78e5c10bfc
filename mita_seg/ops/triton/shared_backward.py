"""Gradients through the shared expert, or remainder: queries, keys, values and landmarks.

All kernels take the tokens in their order. Sums over many tokens are first made for each split of
the tokens; further kernels add them up, in a fixed order.

To a query a remainder is a shared expert of which it sees one row, that of its expert: with mean
keys in place of the landmarks, and a bias. It is made of two softmax sums in place of one, of the
keys and of the values, over the keys outside of the expert.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..options import MiTAOptions, Pooling
from .blocks import REDUCE, Blocks, choose_reduce_blocks
from .call_plan import Plan
from .launch import LOG2E, cdiv, precision
from .pool_landmarks import window_of
from .state import State
from .steps import (
    _backward_step,
    _dot,
    _less_offset,
    _load_rows,
    _logits,
    _scaled_sum,
    _store_rows,
)


@triton.jit
def _shared_backward_kernel(
    p_query, p_grad, p_out, p_lse, p_delta, p_landmarks, p_values, p_bias, p_routes,
    p_part_values, p_part_landmarks, p_part_bias, p_grad_query,
    s_query_b, s_query_h, s_query_n, s_query_d, s_grad_b, s_grad_h, s_grad_n, s_grad_d,
    s_out_b, s_out_h, s_out_n, s_out_d,
    s_landmarks_b, s_landmarks_h, s_landmarks_m, s_landmarks_d,
    s_grad_query_b, s_grad_query_h, s_grad_query_n, s_grad_query_d,
    heads, num_tokens, num_landmarks, splits, tokens_per_split, scale_log2, scale, offset_log2,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_Q: tl.constexpr,
    SUMMARY: tl.constexpr, REMAINDER: tl.constexpr, WITH_QUERY: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid (splits of queries, blocks of landmarks, B H).

    Reads q, o and do once; writes delta = sum(do * o) [B H, N] and, for each split, partial sums
    [B H, splits, m, D] for the landmarks and their values. If all landmarks fit one block, it also
    writes their part of dq. REMAINDER: in place of the landmarks there are mean keys, and the bias
    of each gets partial sums, too [B H, splits, m].
    """
    split, landmark_block = tl.program_id(0), tl.program_id(1)
    head = tl.program_id(2).to(tl.int64)
    batch, local = head // heads, head % heads
    p_query += batch * s_query_b + local * s_query_h
    p_grad += batch * s_grad_b + local * s_grad_h
    p_out += batch * s_out_b + local * s_out_h
    p_landmarks += batch * s_landmarks_b + local * s_landmarks_h
    p_grad_query += batch * s_grad_query_b + local * s_grad_query_h

    o_m = landmark_block * BLOCK_M + tl.arange(0, BLOCK_M)
    m_mask = o_m < num_landmarks
    if SUMMARY:
        b_landmarks = _load_rows(
            p_landmarks, o_m, s_landmarks_m, s_landmarks_d, m_mask, D, BLOCK_D
        )  # [M, D]
        p_values += head * num_landmarks * D
        b_values = _load_rows(p_values, o_m, D, 1, m_mask, D, BLOCK_D)  # [M, D]
        b_grad_values = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
        b_grad_landmarks = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    b_bias = None
    if REMAINDER:
        b_bias = tl.load(p_bias + head * num_landmarks + o_m, mask=m_mask, other=0.0)
        b_grad_bias = tl.zeros([BLOCK_M], dtype=tl.float32)

    begin = split * tokens_per_split
    end = min(begin + tokens_per_split, num_tokens)
    for first in tl.range(begin, end, BLOCK_Q, num_stages=STAGES):
        o_n = first + tl.arange(0, BLOCK_Q)
        n_mask = None if EVEN else o_n < num_tokens
        b_grad = _load_rows(p_grad, o_n, s_grad_n, s_grad_d, n_mask, D, BLOCK_D, WIDE)  # [Q, D]
        b_out = _load_rows(p_out, o_n, s_out_n, s_out_d, n_mask, D, BLOCK_D, WIDE)  # [Q, D]
        b_delta = tl.sum(b_grad.to(tl.float32) * b_out.to(tl.float32), 1)  # [Q]
        if landmark_block == 0:
            tl.store(p_delta + head * num_tokens + o_n, b_delta, mask=n_mask)
        if SUMMARY:
            b_query = _load_rows(
                p_query, o_n, s_query_n, s_query_d, n_mask, D, BLOCK_D, WIDE
            )  # [Q, D]
            if EVEN:
                b_lse = tl.load(p_lse + head * num_tokens + o_n)
            else:
                # Weights of absent queries must be finite: the offset is taken off again below.
                b_lse = tl.load(p_lse + head * num_tokens + o_n, mask=n_mask, other=offset_log2)
            present = m_mask[:, None]
            if REMAINDER:
                p_route = p_routes + head * num_tokens + o_n
                b_route = tl.load(p_route) if EVEN else tl.load(p_route, mask=n_mask, other=-1)
                present = o_m[:, None] == b_route[None, :]  # [M, Q]
            b_grad_landmarks, b_grad_values, b_grad_logits = _backward_step(
                b_query, b_grad, _less_offset(b_lse, offset_log2, PRECISION), b_delta, b_landmarks,
                b_values, b_bias, present, scale_log2, b_grad_landmarks, b_grad_values, PRECISION,
            )  # fmt: skip
            if REMAINDER:
                b_grad_bias += tl.sum(b_grad_logits.to(tl.float32), 1)
            if WITH_QUERY:
                b_grad_query = _dot(tl.trans(b_grad_logits), b_landmarks, None, PRECISION)  # [Q, D]
                _store_rows(
                    p_grad_query, b_grad_query * scale, o_n, s_grad_query_n, s_grad_query_d,
                    n_mask, D, BLOCK_D, WIDE,
                )  # fmt: skip

    if SUMMARY:
        o_part = (head * splits + split) * num_landmarks + o_m
        _store_rows(p_part_values, b_grad_values, o_part, D, 1, m_mask, D, BLOCK_D)
        _store_rows(p_part_landmarks, b_grad_landmarks * scale, o_part, D, 1, m_mask, D, BLOCK_D)
        if REMAINDER:
            tl.store(p_part_bias + o_part, b_grad_bias, mask=m_mask)


@triton.jit
def _present_keys(p_outside, o_n, o_m, n_mask, m_mask, num_landmarks, REMAINDER: tl.constexpr):
    """Which keys `o_n` [N] have a weight, [N, 1]; of a remainder for each landmark, [N, M].

    None: all of them. p_outside: a head's bits [ceil(N / 32), m], as in State.
    """
    present = None
    if REMAINDER:
        mask = m_mask[None, :] if n_mask is None else m_mask[None, :] & n_mask[:, None]
        p_words = p_outside + (o_n // 32)[:, None] * num_landmarks + o_m[None, :]
        b_words = tl.load(p_words, mask=mask, other=0)
        present = (b_words >> (o_n % 32)[:, None]) & 1 != 0
    elif n_mask is not None:
        present = n_mask[:, None]
    return present


@triton.jit
def _shared_value_step(
    b_key, b_value, b_landmarks, b_grad_shared, b_grad_keys, b_lse, b_delta, present,
    scale_log2, scale, PRECISION: tl.constexpr,
):  # fmt: skip
    """Softmax weights and gradients of the scores [N, M] of keys under landmarks.

    `b_grad_keys`: gradient of a remainder's mean keys over c; None: there are none. `present`
    [N, 1] or [N, M]; None: all keys are there. Absent landmarks need no mask: all their numbers are
    zero, and so are their products. Absent keys need one: their weights might be infinite.
    """
    b_scores = _dot(b_key, tl.trans(b_landmarks), None, PRECISION)  # [N, M]
    b_logits = _logits(b_scores, scale_log2, PRECISION)
    b_weights = tl.exp2((b_logits - b_lse[None, :]).to(tl.float32))
    if present is not None:
        b_weights = tl.where(present, b_weights, 0.0)
    b_inner = _dot(b_value, tl.trans(b_grad_shared), None, PRECISION)
    if b_grad_keys is not None:
        b_inner += _dot(b_key, tl.trans(b_grad_keys), None, PRECISION) * scale
    b_grad_scores = b_weights * (b_inner - b_delta[None, :])
    return b_weights.to(b_key.dtype), b_grad_scores.to(b_key.dtype)


@triton.jit
def _key_backward_kernel(
    p_key, p_value, p_landmarks, p_landmark_lse, p_grad_values, p_grad_mean_keys, p_value_delta,
    p_outside, p_grad_key, p_grad_value, p_part_landmarks,
    s_key_b, s_key_h, s_key_n, s_key_d, s_value_b, s_value_h, s_value_n, s_value_d,
    s_landmarks_b, s_landmarks_h, s_landmarks_m, s_landmarks_d,
    s_grad_key_b, s_grad_key_h, s_grad_key_n, s_grad_key_d,
    s_grad_value_b, s_grad_value_h, s_grad_value_n, s_grad_value_d,
    heads, num_tokens, num_landmarks, splits, tokens_per_split, scale_log2, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
    REMAINDER: tl.constexpr, ONE_BLOCK: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dk and dv through the shared values softmax(c S) V. Grid (blocks of keys, B H).

    Reads k and v and writes dk and dv [B, H, N, D] once. If all landmarks fit one block, each
    program also sums their gradient over its keys. REMAINDER: through its mean keys and values,
    softmax(c S) over the keys outside of each expert, times K and V.
    """
    split, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, local = head // heads, head % heads
    p_key += batch * s_key_b + local * s_key_h
    p_value += batch * s_value_b + local * s_value_h
    p_landmarks += batch * s_landmarks_b + local * s_landmarks_h
    p_grad_key += batch * s_grad_key_b + local * s_grad_key_h
    p_grad_value += batch * s_grad_value_b + local * s_grad_value_h
    p_grad_values += head * num_landmarks * D
    p_grad_mean_keys += head * num_landmarks * D
    p_landmark_lse += head * num_landmarks
    p_value_delta += head * num_landmarks
    p_outside += head * ((num_tokens + 31) // 32) * num_landmarks
    o_m = tl.arange(0, BLOCK_M)
    m_mask = o_m < num_landmarks
    if ONE_BLOCK:
        b_landmarks = _load_rows(
            p_landmarks, o_m, s_landmarks_m, s_landmarks_d, m_mask, D, BLOCK_D
        )  # [M, D]
        b_grad_shared = _load_rows(p_grad_values, o_m, D, 1, m_mask, D, BLOCK_D)  # [M, D]
        b_grad_keys = None
        if REMAINDER:
            b_grad_keys = _load_rows(p_grad_mean_keys, o_m, D, 1, m_mask, D, BLOCK_D)  # [M, D]
        b_lse = tl.load(p_landmark_lse + o_m, mask=m_mask, other=0.0)
        b_delta = tl.load(p_value_delta + o_m, mask=m_mask, other=0.0)
        b_grad_landmarks = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)

    begin = split * tokens_per_split
    for start in tl.range(
        begin, min(begin + tokens_per_split, num_tokens), BLOCK_N, num_stages=STAGES
    ):
        o_n = start + tl.arange(0, BLOCK_N)
        n_mask = None if EVEN else o_n < num_tokens
        b_key = _load_rows(p_key, o_n, s_key_n, s_key_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
        b_value = _load_rows(p_value, o_n, s_value_n, s_value_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
        if ONE_BLOCK:
            present = _present_keys(p_outside, o_n, o_m, n_mask, m_mask, num_landmarks, REMAINDER)
            b_weights, b_grad_scores = _shared_value_step(
                b_key, b_value, b_landmarks, b_grad_shared, b_grad_keys, b_lse, b_delta, present,
                scale_log2, scale, PRECISION,
            )  # fmt: skip
            # This must not be the last dot of a step: see `_scaled_sum`.
            b_grad_landmarks = _dot(tl.trans(b_grad_scores), b_key, b_grad_landmarks, PRECISION)
            b_grad_value = _dot(b_weights, b_grad_shared, None, PRECISION)
            b_grad_key = _dot(b_grad_scores, b_landmarks, None, PRECISION)
            if REMAINDER:
                b_grad_key = _dot(b_weights, b_grad_keys, b_grad_key, PRECISION)
        else:
            b_grad_key = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
            b_grad_value = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
            for first in range(0, num_landmarks, BLOCK_M):
                o_m = first + tl.arange(0, BLOCK_M)
                m_mask = o_m < num_landmarks
                b_landmarks = _load_rows(
                    p_landmarks, o_m, s_landmarks_m, s_landmarks_d, m_mask, D, BLOCK_D
                )
                b_grad_shared = _load_rows(p_grad_values, o_m, D, 1, m_mask, D, BLOCK_D)
                b_grad_keys = None
                if REMAINDER:
                    b_grad_keys = _load_rows(p_grad_mean_keys, o_m, D, 1, m_mask, D, BLOCK_D)
                present = _present_keys(
                    p_outside, o_n, o_m, n_mask, m_mask, num_landmarks, REMAINDER
                )
                b_lse = tl.load(p_landmark_lse + o_m, mask=m_mask, other=0.0)
                b_delta = tl.load(p_value_delta + o_m, mask=m_mask, other=0.0)
                b_weights, b_grad_scores = _shared_value_step(
                    b_key, b_value, b_landmarks, b_grad_shared, b_grad_keys, b_lse, b_delta,
                    present, scale_log2, scale, PRECISION,
                )  # fmt: skip
                b_grad_value = _dot(b_weights, b_grad_shared, b_grad_value, PRECISION)
                b_grad_key = _dot(b_grad_scores, b_landmarks, b_grad_key, PRECISION)
                if REMAINDER:
                    b_grad_key = _dot(b_weights, b_grad_keys, b_grad_key, PRECISION)
        _store_rows(
            p_grad_key, b_grad_key * scale, o_n, s_grad_key_n, s_grad_key_d, n_mask, D, BLOCK_D,
            WIDE,
        )  # fmt: skip
        _store_rows(
            p_grad_value, b_grad_value, o_n, s_grad_value_n, s_grad_value_d, n_mask, D, BLOCK_D,
            WIDE,
        )  # fmt: skip

    if ONE_BLOCK:
        o_part = (head * splits + split) * num_landmarks + o_m
        _store_rows(p_part_landmarks, b_grad_landmarks * scale, o_part, D, 1, m_mask, D, BLOCK_D)


@triton.jit
def _landmark_backward_kernel(
    p_key, p_value, p_landmarks, p_landmark_lse, p_grad_values, p_grad_mean_keys, p_value_delta,
    p_outside, p_part_landmarks,
    s_key_b, s_key_h, s_key_n, s_key_d, s_value_b, s_value_h, s_value_n, s_value_d,
    s_landmarks_b, s_landmarks_h, s_landmarks_m, s_landmarks_d,
    heads, num_tokens, num_landmarks, splits, tokens_per_split, scale_log2, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, REMAINDER: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Gradient of the landmarks through the shared values. Grid (splits of keys, blocks, B H).

    For landmarks that need several blocks: reads k and v once per block and writes partial sums
    [B H, splits, m, D].
    """
    split, head = tl.program_id(0), tl.program_id(2).to(tl.int64)
    batch, local = head // heads, head % heads
    p_key += batch * s_key_b + local * s_key_h
    p_value += batch * s_value_b + local * s_value_h
    p_landmarks += batch * s_landmarks_b + local * s_landmarks_h
    o_m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_mask = o_m < num_landmarks
    o_row = head * num_landmarks + o_m
    b_landmarks = _load_rows(
        p_landmarks, o_m, s_landmarks_m, s_landmarks_d, m_mask, D, BLOCK_D
    )  # [M, D]
    b_grad_shared = _load_rows(p_grad_values, o_row, D, 1, m_mask, D, BLOCK_D)  # [M, D]
    b_grad_keys = None
    if REMAINDER:
        b_grad_keys = _load_rows(p_grad_mean_keys, o_row, D, 1, m_mask, D, BLOCK_D)  # [M, D]
        p_outside += head * ((num_tokens + 31) // 32) * num_landmarks
    b_lse = tl.load(p_landmark_lse + o_row, mask=m_mask, other=0.0)
    b_delta = tl.load(p_value_delta + o_row, mask=m_mask, other=0.0)
    b_sum = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    begin = split * tokens_per_split
    end = min(begin + tokens_per_split, num_tokens)
    for first in tl.range(begin, end, BLOCK_N, num_stages=STAGES):
        o_n = first + tl.arange(0, BLOCK_N)
        n_mask = None if EVEN else o_n < num_tokens
        b_key = _load_rows(p_key, o_n, s_key_n, s_key_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
        b_value = _load_rows(p_value, o_n, s_value_n, s_value_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
        present = _present_keys(p_outside, o_n, o_m, n_mask, m_mask, num_landmarks, REMAINDER)
        _, b_grad_scores = _shared_value_step(
            b_key, b_value, b_landmarks, b_grad_shared, b_grad_keys, b_lse, b_delta, present,
            scale_log2, scale, PRECISION,
        )  # fmt: skip
        b_product = _dot(tl.trans(b_grad_scores), b_key, None, PRECISION)  # [M, D]
        b_sum = _scaled_sum(b_product, tl.full([1, 1], scale, dtype=tl.float32), b_sum)
    o_part = (head * splits + split) * num_landmarks + o_m
    _store_rows(p_part_landmarks, b_sum, o_part, D, 1, m_mask, D, BLOCK_D)


@triton.jit
def _sum_splits(
    p_part, o_m, head, splits, num_landmarks,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """part [B H, splits, m, D] -> sums of landmarks `o_m` [M, D]; zero for absent landmarks.

    BLOCK_S splits are unrolled, so that their loads run at once.
    """
    m_mask = o_m < num_landmarks
    b_sum = tl.zeros([o_m.shape[0], BLOCK_D], dtype=tl.float32)
    for first in range(0, splits, BLOCK_S):
        for i in tl.static_range(BLOCK_S):
            split = first + i
            o_part = (head * splits + split) * num_landmarks + o_m
            b_sum += _load_rows(p_part, o_part, D, 1, m_mask & (split < splits), D, BLOCK_D)
    return b_sum


@triton.jit
def reduce_values(
    program, head, p_part, p_values, p_grad_values, p_value_delta, num_landmarks, splits,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Gradient dVs of the shared values, and delta = sum(dVs * Vs) of each landmark."""
    o_m = program * BLOCK_M + tl.arange(0, BLOCK_M)
    m_mask = o_m < num_landmarks
    b_sum = _sum_splits(p_part, o_m, head, splits, num_landmarks, D, BLOCK_D, BLOCK_S)
    o_row = head * num_landmarks + o_m
    b_values = _load_rows(p_values, o_row, D, 1, m_mask, D, BLOCK_D)  # [M, D]
    tl.store(p_value_delta + o_row, tl.sum(b_sum * b_values.to(tl.float32), 1), mask=m_mask)
    _store_rows(p_grad_values, b_sum, o_row, D, 1, m_mask, D, BLOCK_D)


@triton.jit
def reduce_remainder(
    program, head, p_part, p_part_keys, p_part_bias, p_values, p_mean_keys, p_landmarks,
    p_grad_values, p_grad_keys, p_grad_bias, p_value_delta, s_landmarks_m, s_landmarks_d,
    num_landmarks, splits, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Gradients of each expert's remainder; `p_landmarks` are those of the head.

    The bias is log R - c L . key: with dk of the key from the queries, the key's gradient is
    dk - c dbias L, which is written divided by c. log R is a sum of the same weights as key and
    value, so that its gradient goes into delta = sum(dkey * key) + sum(dvalue * value) - dbias.
    """
    o_m = program * BLOCK_M + tl.arange(0, BLOCK_M)
    m_mask = o_m < num_landmarks
    b_grad_values = _sum_splits(p_part, o_m, head, splits, num_landmarks, D, BLOCK_D, BLOCK_S)
    b_grad_keys = _sum_splits(p_part_keys, o_m, head, splits, num_landmarks, D, BLOCK_D, BLOCK_S)
    b_grad_bias = tl.zeros([BLOCK_M], dtype=tl.float32)
    for split in range(splits):
        o_part = (head * splits + split) * num_landmarks + o_m
        b_grad_bias += tl.load(p_part_bias + o_part, mask=m_mask, other=0.0)
    o_row = head * num_landmarks + o_m
    b_values = _load_rows(p_values, o_row, D, 1, m_mask, D, BLOCK_D).to(tl.float32)  # [M, D]
    b_keys = _load_rows(p_mean_keys, o_row, D, 1, m_mask, D, BLOCK_D).to(tl.float32)  # [M, D]
    b_landmarks = _load_rows(
        p_landmarks, o_m, s_landmarks_m, s_landmarks_d, m_mask, D, BLOCK_D, WIDE=True
    )  # [M, D]
    b_grad_keys = b_grad_keys / scale - b_grad_bias[:, None] * b_landmarks.to(tl.float32)
    b_delta = tl.sum(b_grad_values * b_values, 1) - b_grad_bias
    b_delta += tl.sum(b_grad_keys * b_keys, 1) * scale
    tl.store(p_value_delta + o_row, b_delta, mask=m_mask)
    tl.store(p_grad_bias + o_row, b_grad_bias, mask=m_mask)
    _store_rows(p_grad_values, b_grad_values, o_row, D, 1, m_mask, D, BLOCK_D)
    _store_rows(p_grad_keys, b_grad_keys, o_row, D, 1, m_mask, D, BLOCK_D)


@triton.jit
def _reduce_landmarks_kernel(
    p_part, p_key_part, p_mean_keys, p_grad_bias, p_out,
    num_landmarks, splits, height, width, landmark_height, landmark_width, scale,
    REMAINDER: tl.constexpr, AVERAGE: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Gradient of the landmarks: through the output's softmax plus through the shared values.

    REMAINDER: through its bias in place of the output's softmax. AVERAGE: divided by the number of
    tokens in the landmark's window, for pooled landmarks.
    """
    o_m, head = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.program_id(1).to(tl.int64)
    o_row = head * num_landmarks + o_m
    b_sum = _sum_splits(p_key_part, o_m, head, splits, num_landmarks, D, BLOCK_D, BLOCK_S)
    if REMAINDER:
        m_mask = o_m < num_landmarks
        b_keys = _load_rows(p_mean_keys, o_row, D, 1, m_mask, D, BLOCK_D).to(tl.float32)  # [M, D]
        b_grad_bias = tl.load(p_grad_bias + o_row, mask=m_mask, other=0.0)
        b_sum -= scale * b_grad_bias[:, None] * b_keys
    else:
        b_sum += _sum_splits(p_part, o_m, head, splits, num_landmarks, D, BLOCK_D, BLOCK_S)
    if AVERAGE:
        top, bottom = window_of(o_m // landmark_width, landmark_height, height)
        left, right = window_of(o_m % landmark_width, landmark_width, width)
        b_sum /= ((bottom - top) * (right - left)).to(tl.float32)[:, None]
    _store_rows(p_out, b_sum, o_row, D, 1, o_m < num_landmarks, D, BLOCK_D)


class SummaryGradients(NamedTuple):
    """Gradients of shared values, or of remainders. What is left out is any tensor, never read.

    Parts have one sum for each split of the tokens.
    """

    part_values: Tensor  # from the queries, float32 [B H, splits, m, d]
    part_landmarks: Tensor  # of landmarks or mean keys, from the queries, likewise
    part_bias: Tensor  # of a remainder's bias, from the queries, float32 [B H, splits, m]
    part_keys: Tensor  # of landmarks, from the keys, float32 [B H, splits, m, d]
    values: Tensor  # of shared values or a remainder's, dtype of the input [B H, m, d]
    keys: Tensor  # of a remainder's mean keys over c, dtype of the input [B H, m, d]
    bias: Tensor  # of a remainder's bias, float32 [B H, m]
    delta: Tensor  # float32 [B H, m]: gradient times value, as of a softmax's output


def empty_summary_gradients(
    plan: Plan, query: Tensor, state: State, options: MiTAOptions, splits: int
) -> SummaryGradients:
    """Memory for them."""
    summary = SummaryGradients(*[query] * len(SummaryGradients._fields))
    if not options.summarizes:
        return summary
    all_heads, num_landmarks, dim = state.values.shape
    parts = all_heads, splits, num_landmarks
    part_values, part_landmarks, part_keys = plan.scratch(3, *parts, dim, dtype=torch.float32)
    summary = summary._replace(
        part_values=part_values,
        part_landmarks=part_landmarks,
        part_keys=part_keys,
        values=plan.scratch(*state.values.shape, dtype=query.dtype),
        delta=plan.scratch(all_heads, num_landmarks, dtype=torch.float32),
    )
    if not options.remainder:
        return summary
    return summary._replace(
        part_bias=plan.scratch(*parts, dtype=torch.float32),
        keys=plan.scratch(*state.values.shape, dtype=query.dtype),
        bias=plan.scratch(all_heads, num_landmarks, dtype=torch.float32),
    )


def grad_from_queries(
    plan: Plan, grad: Tensor, query: Tensor, landmarks: Tensor, out: Tensor, state: State,
    delta: Tensor, summary: SummaryGradients, grad_query: Tensor,
    options: MiTAOptions, one_pass: bool, blocks: Blocks, wide: bool,
) -> None:  # fmt: skip
    """Writes delta [B H, N] and the queries' parts of the summaries' gradients.

    With `one_pass` also part of `grad_query`.
    """
    batch, heads, tokens, dim = query.shape
    num_landmarks, all_heads, lse = landmarks.shape[2], batch * heads, state.lse
    remainder, scale = options.remainder, options.landmark_scale
    if remainder:
        landmarks, scale = state.mean_keys.unflatten(0, (batch, heads)), options.scale
    landmark_blocks = cdiv(num_landmarks, blocks.landmarks)
    plan.launch(
        _shared_backward_kernel,
        (blocks.backward_splits, landmark_blocks if options.summarizes else 1, all_heads),
        query, grad, out, lse, delta, landmarks, state.values, state.bias, state.routes,
        summary.part_values, summary.part_landmarks, summary.part_bias, grad_query,
        *query.stride(), *grad.stride(), *out.stride(), *landmarks.stride(), *grad_query.stride(),
        heads, tokens, num_landmarks, blocks.backward_splits, blocks.backward_tokens,
        scale * LOG2E, scale, options.shared_offset * LOG2E,
        BLOCK_M=blocks.landmarks, BLOCK_Q=blocks.shared_backward.block,
        SUMMARY=options.summarizes, REMAINDER=remainder, WITH_QUERY=one_pass,
        EVEN=tokens % blocks.shared_backward.block == 0,
        STAGES=blocks.shared_backward.stages,
        D=dim, BLOCK_D=blocks.dim, PRECISION=precision(query.dtype), WIDE=wide,
        **blocks.shared_backward.triton_options,
    )  # fmt: skip


def grad_from_values(
    plan: Plan, key: Tensor, value: Tensor, landmarks: Tensor, state: State,
    summary: SummaryGradients, grad_key: Tensor, grad_value: Tensor,
    options: MiTAOptions, blocks: Blocks, wide: bool,
) -> None:  # fmt: skip
    """Writes the gradients through the summaries: of keys, values and, in parts, landmarks."""
    batch, heads, tokens, dim = key.shape
    num_landmarks, all_heads, scale = landmarks.shape[2], batch * heads, options.scale
    at_once = blocks.key_backward_landmarks if options.remainder else blocks.landmarks
    one_block = num_landmarks <= at_once
    common = {
        'D': dim, 'BLOCK_D': blocks.dim, 'PRECISION': precision(key.dtype), 'WIDE': wide,
        'REMAINDER': options.remainder,
    }  # fmt: skip
    # With one block of landmarks the kernel also sums their gradient; else another kernel does.
    launch = blocks.key_backward_remainder if options.remainder else blocks.key_backward
    per_program = blocks.backward_tokens if one_block else launch.block
    plan.launch(
        _key_backward_kernel, (cdiv(tokens, per_program), all_heads),
        key, value, landmarks, state.landmark_lse, summary.values, summary.keys, summary.delta,
        state.outside, grad_key, grad_value, summary.part_keys,
        *key.stride(), *value.stride(), *landmarks.stride(), *grad_key.stride(),
        *grad_value.stride(),
        heads, tokens, num_landmarks, blocks.backward_splits, per_program, scale * LOG2E, scale,
        BLOCK_N=launch.block, BLOCK_M=at_once, ONE_BLOCK=one_block,
        EVEN=tokens % launch.block == 0, STAGES=launch.stages, **common, **launch.triton_options,
    )  # fmt: skip
    if not one_block:
        launch = blocks.landmark_backward
        plan.launch(
            _landmark_backward_kernel,
            (blocks.backward_splits, cdiv(num_landmarks, blocks.landmarks), all_heads),
            key, value, landmarks, state.landmark_lse, summary.values, summary.keys, summary.delta,
            state.outside, summary.part_keys,
            *key.stride(), *value.stride(), *landmarks.stride(),
            heads, tokens, num_landmarks, blocks.backward_splits, blocks.backward_tokens,
            scale * LOG2E, scale,
            BLOCK_N=launch.block, BLOCK_M=blocks.landmarks, EVEN=tokens % launch.block == 0,
            STAGES=launch.stages, **common, **launch.triton_options,
        )  # fmt: skip


def reduce_landmarks(
    plan: Plan, state: State, summary: SummaryGradients, grad_landmarks: Tensor,
    options: MiTAOptions, blocks: Blocks,
) -> None:  # fmt: skip
    """Adds up the parts; for pooled landmarks, divides by the number of tokens in the window."""
    all_heads, num_landmarks, dim = state.values.shape
    pooling: Pooling | None = options.pooling
    # Landmarks that were given are not averaged: the numbers are not read.
    height, width, landmark_height, landmark_width, *_ = pooling or (1, 1, 1, num_landmarks)
    reduce = choose_reduce_blocks(blocks, **REDUCE)
    plan.launch(
        _reduce_landmarks_kernel, (cdiv(num_landmarks, reduce['BLOCK_M']), all_heads),
        summary.part_landmarks, summary.part_keys, state.mean_keys, summary.bias, grad_landmarks,
        num_landmarks, blocks.backward_splits, height, width, landmark_height, landmark_width,
        options.scale, REMAINDER=options.remainder, AVERAGE=pooling is not None,
        D=dim, BLOCK_D=blocks.dim, **reduce, **REDUCE,
    )  # fmt: skip
