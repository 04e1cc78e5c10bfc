"""The remainder of each expert: one key and value for all keys outside of it.

See :mod:`mita_seg.ops.remainder` for what it is. Reads the scores that the selection has marked,
the keys and the values once; writes a bit per landmark and key, and a few rows per split.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..options import MiTAOptions
from .blocks import Blocks, choose_merge_blocks
from .call_plan import Plan
from .launch import LOG2E, cdiv, precision
from .state import State
from .steps import _dot, _load_rows, _logits, _scaled_sum, _store_rows
from .topk_and_sort import merge_splits


@triton.jit
def _sum_outside_kernel(
    p_key, p_value, p_scores, p_part_keys, p_part_values, p_part_sum, p_part_max, p_outside,
    s_key_b, s_key_h, s_key_n, s_key_d, s_value_b, s_value_h, s_value_n, s_value_d,
    s_scores, heads, num_tokens, num_landmarks, splits, tokens_per_split, scale_log2,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Sums over the keys outside of experts. Grid (splits of keys, blocks of landmarks, B H).

    Scores [B H, m, s_scores] are -inf inside. For the softmax of c S over the others it writes, for
    each split, the weighted sums of keys and values [B H, splits, m, D], the sum of the weights and
    the largest logit [B H, splits, m]; and the bits `outside` of a State.
    """
    split, head = tl.program_id(0), tl.program_id(2).to(tl.int64)
    batch, local = head // heads, head % heads
    p_key += batch * s_key_b + local * s_key_h
    p_value += batch * s_value_b + local * s_value_h
    p_scores += head * num_landmarks * s_scores
    p_outside += head * ((num_tokens + 31) // 32) * num_landmarks
    o_m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_mask = o_m < num_landmarks
    p_rows = p_scores + o_m.to(tl.int64)[:, None] * s_scores
    b_row_max = tl.full([BLOCK_M], float('-inf'), dtype=tl.float32)
    b_row_sum = tl.zeros([BLOCK_M], dtype=tl.float32)
    b_keys = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    b_values = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    WORDS: tl.constexpr = BLOCK_N // 32
    o_bit = tl.arange(0, 32).to(tl.uint32)[None, None, :]
    begin = split * tokens_per_split
    end = tl.where(split == splits - 1, num_tokens, begin + tokens_per_split)
    for first in tl.range(begin, end, BLOCK_N, num_stages=STAGES):
        o_n = first + tl.arange(0, BLOCK_N)
        n_mask = None if EVEN else o_n < num_tokens
        b_scores = tl.load(
            p_rows + o_n[None, :], mask=m_mask[:, None], other=float('-inf')
        )  # [M, N]
        if not EVEN:
            b_scores = tl.where(n_mask[None, :], b_scores, float('-inf'))
        b_key = _load_rows(p_key, o_n, s_key_n, s_key_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
        b_value = _load_rows(p_value, o_n, s_value_n, s_value_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
        b_bits = tl.reshape((b_scores != float('-inf')).to(tl.uint32), [BLOCK_M, WORDS, 32])
        b_words = tl.sum(b_bits << o_bit, 2).to(tl.int32, bitcast=True)  # [M, WORDS]
        o_word = first // 32 + tl.arange(0, WORDS)
        p_words = p_outside + o_word[None, :] * num_landmarks + o_m[:, None]
        tl.store(p_words, b_words, mask=m_mask[:, None] & (o_word * 32 < num_tokens)[None, :])

        b_new_max = tl.maximum(b_row_max, tl.max(b_scores, 1) * scale_log2)
        b_safe = tl.where(b_new_max == float('-inf'), 0.0, b_new_max)  # nothing outside so far
        b_logits = _logits(b_scores, scale_log2, PRECISION)
        b_weights = tl.exp2((b_logits - b_safe[:, None]).to(tl.float32))  # [M, N]
        b_rescale = tl.exp2(b_row_max - b_safe)
        b_row_sum = b_row_sum * b_rescale + tl.sum(b_weights, 1)
        b_weights = b_weights.to(b_value.dtype)
        b_product = _dot(b_weights, b_key, None, PRECISION)  # [M, D]
        b_keys = _scaled_sum(b_keys, b_rescale[:, None], b_product)
        b_product = _dot(b_weights, b_value, None, PRECISION)
        b_values = _scaled_sum(b_values, b_rescale[:, None], b_product)
        b_row_max = b_new_max

    o_row = (head * splits + split) * num_landmarks + o_m
    _store_rows(p_part_keys, b_keys, o_row, D, 1, m_mask, D, BLOCK_D)
    _store_rows(p_part_values, b_values, o_row, D, 1, m_mask, D, BLOCK_D)
    tl.store(p_part_sum + o_row, b_row_sum, mask=m_mask)
    tl.store(p_part_max + o_row, b_row_max, mask=m_mask)


@triton.jit
def _merge_outside_kernel(
    p_part_keys, p_part_values, p_part_sum, p_part_max, p_landmarks, p_mean_keys, p_values, p_lse,
    p_bias, s_landmarks_b, s_landmarks_h, s_landmarks_m, s_landmarks_d,
    heads, num_landmarks, splits, scale_log2,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_M: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The remainder of each expert from the splits of the keys. Grid (blocks of landmarks, B H).

    Its bias is the log of the softmax sum less the mean key's logit with the landmark.
    """
    o_m, head = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.program_id(1).to(tl.int64)
    merge_splits(
        o_m, head, p_part_values, p_part_sum, p_part_max, p_values, p_lse,
        splits, num_landmarks, D, BLOCK_D, BLOCK_S,
    )  # fmt: skip
    b_mean_key, b_lse = merge_splits(
        o_m, head, p_part_keys, p_part_sum, p_part_max, p_mean_keys, p_lse,
        splits, num_landmarks, D, BLOCK_D, BLOCK_S,
    )  # fmt: skip
    m_mask = o_m < num_landmarks
    p_landmarks += head // heads * s_landmarks_b + head % heads * s_landmarks_h
    b_landmarks = _load_rows(
        p_landmarks, o_m, s_landmarks_m, s_landmarks_d, m_mask, D, BLOCK_D, True
    )  # [M, D]
    b_score = tl.sum(b_landmarks.to(tl.float32) * b_mean_key.to(tl.float32), 1)
    b_bias = b_lse - _logits(b_score, scale_log2, PRECISION)
    tl.store(p_bias + head * num_landmarks + o_m, b_bias, mask=m_mask)


def make_remainder(
    plan: Plan, key: Tensor, value: Tensor, landmarks: Tensor, scores: Tensor, state: State,
    options: MiTAOptions, blocks: Blocks, wide: bool,
) -> None:  # fmt: skip
    """Writes the remainder of a State; scores [B H, m, ..] are -inf at the keys of each expert."""
    batch, heads, tokens, dim = key.shape
    num_landmarks, all_heads, splits = landmarks.shape[2], batch * heads, blocks.splits
    parts = all_heads, splits, num_landmarks
    part_keys, part_values = plan.scratch(2, *parts, dim, dtype=torch.float32)
    part_sum, part_max = plan.scratch(2, *parts, dtype=torch.float32)
    launch, scale_log2 = blocks.sum_outside, options.scale * LOG2E
    common = {'D': dim, 'BLOCK_D': blocks.dim, 'PRECISION': precision(key.dtype)}
    plan.launch(
        _sum_outside_kernel, (splits, cdiv(num_landmarks, blocks.landmarks), all_heads),
        key, value, scores, part_keys, part_values, part_sum, part_max, state.outside,
        *key.stride(), *value.stride(),
        scores.shape[2], heads, tokens, num_landmarks, splits, blocks.tokens_per_split, scale_log2,
        BLOCK_M=blocks.landmarks, BLOCK_N=launch.block, EVEN=tokens % launch.block == 0,
        STAGES=launch.stages, WIDE=wide, **common, **launch.triton_options,
    )  # fmt: skip
    merged = choose_merge_blocks(splits)
    plan.launch(
        _merge_outside_kernel, (cdiv(num_landmarks, merged['BLOCK_M']), all_heads),
        part_keys, part_values, part_sum, part_max, landmarks,
        state.mean_keys, state.values, state.landmark_lse, state.bias, *landmarks.stride(),
        heads, num_landmarks, splits, scale_log2,
        **merged, num_warps=1, **common,
    )  # fmt: skip
