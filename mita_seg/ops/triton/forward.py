"""The forward pass: pooling, probing, assignment of keys and queries to experts, attention."""

from typing import NamedTuple

import torch
from torch import Tensor

from .assign import _assign_kernel
from .attend import _attend_kernel
from .blocks import ATTEND, PROBE, PROGRAMS, choose_blocks
from .launch import (
    LOG2E,
    Plan,
    cdiv,
    empty_like_query,
    find_plan,
    next_power_of_2,
    on_its_device,
    precision,
)
from .merge import _merge_kernel
from .probe import _probe_kernel


class Experts(NamedTuple):
    """The shared and the routed experts of every head, and the rows that each of them serves.

    A row is a query and one of its experts: row n s + j of N s. What an option leaves out is empty.
    """

    values: Tensor  # shared values [B H, m, d], dtype of the input
    lse: Tensor  # log2 of the sum of exp(c S) of each landmark, float32 [B H, m]
    indices: Tensor  # keys of each expert, int32 [B H, m, k], ascending
    row_of_slot: Tensor  # rows grouped by expert, int32 [B H, tiles * height]
    # Of each tile, 256 times the expert plus the number of rows; at the end, how many are in use.
    tiles: Tensor  # int32 [B H, tiles + 1]
    first_tile: Tensor  # of each expert, int32 [B H, m]


class Saved(NamedTuple):
    """The output, and what the backward pass needs beside the inputs."""

    out: Tensor  # [B, H, N, d]
    lse: Tensor  # log2 of each query's softmax sum, float32 [B H, N]
    experts: Experts

    def flatten(self) -> list[Tensor]:
        """All tensors, for an operator's results."""
        return [self.out, self.lse, *self.experts]

    @classmethod
    def unflatten(cls, tensors: list[Tensor]) -> 'Saved':
        """The inverse of `flatten`."""
        out, lse, *experts = tensors
        return cls(out, lse, Experts(*experts))


def empty_experts(
    query: Tensor, num_landmarks: int, topk: int, num_routed: int, shared: bool, height: int
) -> Experts:
    """Experts of the right shapes, not written yet."""
    heads, tokens, dim = query.shape[0] * query.shape[1], query.shape[2], query.shape[3]
    num_tiles = tokens * num_routed // height + num_landmarks if topk else 0
    shared_size, routed_size = num_landmarks if shared else 0, num_landmarks if topk else 0
    return Experts(
        query.new_empty(heads, shared_size, dim),
        query.new_empty(heads, shared_size, dtype=torch.float32),
        query.new_empty(heads, num_landmarks, topk, dtype=torch.int32),
        query.new_empty(heads, num_tiles * height, dtype=torch.int32),
        query.new_empty(heads, num_tiles + 1, dtype=torch.int32),
        query.new_empty(heads, routed_size, dtype=torch.int32),
    )


def build_experts(
    query, key, value, landmarks, topk, num_routed, scale, shared, plan: Plan
) -> Experts:
    """query, key, value [B, H, N, d], landmarks [B, H, m, d]; topk 0: no routed experts."""
    blocks = plan.blocks
    batch, heads, tokens, dim = key.shape
    num_landmarks, rows = landmarks.shape[2], batch * heads
    num_rows = tokens * num_routed
    routed = topk > 0
    num_blocks = cdiv(tokens, blocks.key_block)
    chunks = cdiv(tokens, blocks.chunk) if routed else 0
    # What an option leaves out is some tensor all the same.
    scores = maxima = part = part_total = part_peak = row_expert = row_rank = counts = query
    if routed:
        scores = torch.empty(rows, num_landmarks, tokens, dtype=torch.float32, device=key.device)
        row_expert, row_rank = query.new_empty(2, rows, num_rows, dtype=torch.int32)
        counts = query.new_empty(rows, chunks, num_landmarks, dtype=torch.int32)
        if blocks.key_block > 1:
            maxima = query.new_empty(rows, num_landmarks, num_blocks, dtype=torch.float32)
    if shared:
        parts = rows, blocks.splits, num_landmarks
        part = query.new_empty(*parts, dim, dtype=torch.float32)
        part_total, part_peak = query.new_empty(2, *parts, dtype=torch.float32)
    score_programs = blocks.splits * cdiv(num_landmarks, blocks.landmarks)
    plan.launch(
        _probe_kernel, (score_programs + chunks, rows),
        query, key, value, landmarks,
        scores, maxima, part, part_total, part_peak, row_expert, row_rank, counts,
        *query.stride(), *key.stride(), *value.stride(), *landmarks.stride(),
        heads, tokens, num_blocks,
        blocks.splits, score_programs, blocks.tokens_per_split, chunks, blocks.chunk,
        scale * LOG2E, num_landmarks, num_routed,
        D=dim, BLOCK_D=blocks.dim, BLOCK_M=blocks.landmarks, ALL_M=blocks.all_landmarks,
        BLOCK_N=blocks.rows, BLOCK_Q=64, KEY_BLOCK=blocks.key_block,
        ROUTED=routed, SHARED=shared, PRECISION=precision(key.dtype), STAGES=blocks.stages,
        EVEN=tokens % blocks.rows == 0, WIDE=plan.wide,
        num_stages=blocks.stages, **PROBE,
    )  # fmt: skip

    experts = empty_experts(query, num_landmarks, topk, num_routed, shared, blocks.height)
    num_tiles = experts.tiles.shape[1] - 1
    block_rows = min(128 * blocks.select_warps, blocks.chunk)
    place_programs = cdiv(num_rows, block_rows) if routed else 0
    per_step = max(1, 1024 * blocks.select_warps // blocks.all_landmarks)
    plan.launch(
        _assign_kernel, (num_landmarks + place_programs, rows),
        scores, maxima, experts.indices, part, part_total, part_peak, experts.values, experts.lse,
        row_expert, row_rank, counts, *experts[3:],
        tokens, num_blocks, topk, blocks.splits, num_landmarks,
        num_rows, chunks, blocks.chunk * num_routed, num_tiles, place_programs,
        D=dim, BLOCK_D=blocks.dim, BLOCK_S=min(16, next_power_of_2(blocks.splits)),
        KEY_BLOCK=blocks.key_block, BLOCK_K=next_power_of_2(max(topk, 1)),
        BLOCK_B=next_power_of_2(num_blocks), HEIGHT=blocks.height, ALL_M=blocks.all_landmarks,
        BLOCK_C=min(per_step, next_power_of_2(max(chunks, 1))), BLOCK_R=block_rows,
        BLOCK_T=min(per_step, 64),
        ROUTED=routed, SHARED=shared, num_warps=blocks.select_warps,
    )  # fmt: skip
    return experts


def attend(
    query, key, value, landmarks, experts: Experts,
    topk, num_routed, scale, landmark_scale, shared, plan: Plan,
):  # fmt: skip
    """-> output [B, H, N, d] and log2 of each query's softmax sum, float32 [B H, N]"""
    blocks = plan.blocks
    batch, heads, tokens, dim = query.shape
    num_landmarks = landmarks.shape[2]
    rows, num_rows = batch * heads, tokens * num_routed
    out = empty_like_query(query)
    lse = query.new_empty(rows, tokens, dtype=torch.float32)
    partial = num_routed > 1
    part_out = query.new_empty(rows, num_rows, dim) if partial else out
    part_lse = lse.new_empty(rows, num_rows) if partial else lse
    routed = topk > 0
    height = blocks.height if routed else blocks.rows
    num_tiles = experts.tiles.shape[1] - 1 if routed else cdiv(tokens, height)
    one_block = max(num_landmarks if shared else 0, topk) <= blocks.keys
    programs = min(num_tiles, max(1, PROGRAMS // rows)) if one_block else num_tiles
    plan.launch(
        _attend_kernel, (programs, rows),
        query, key, value, landmarks, experts.values, experts.indices,
        experts.row_of_slot, experts.tiles, part_out, part_lse,
        *query.stride(), *key.stride(), *value.stride(), *landmarks.stride(), *out.stride(),
        heads, num_routed, num_tiles, num_rows, scale * LOG2E, landmark_scale * LOG2E,
        num_landmarks, topk,
        D=dim, BLOCK_D=blocks.dim, HEIGHT=height,
        BLOCK_Q=height if height < 32 else blocks.rows,  # a warpgroup's 64, partly idle, beat 32
        BLOCK_K=blocks.keys,
        SHARED=shared, ROUTED=routed, PARTIAL=partial, ONE_BLOCK=one_block,
        PRECISION=precision(query.dtype), STAGES=blocks.stages,
        WIDE=plan.wide, num_stages=min(2, blocks.stages), **ATTEND,
    )  # fmt: skip
    if partial:
        plan.launch(
            _merge_kernel, (cdiv(tokens, 64), rows),
            part_out, part_lse, out, lse, *out.stride(), heads, tokens, num_routed,
            D=dim, BLOCK_D=blocks.dim, WIDE=plan.wide, BLOCK_N=64,
        )  # fmt: skip
    return out, lse


@on_its_device
def mita_forward(
    query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor,
    topk: int, num_routed: int, scale: float, landmark_scale: float, shared: bool,
) -> Saved:  # fmt: skip
    """MiTA attention; arguments as in :func:`mita_seg.ops.mita_attention`, none optional."""
    num_routed = num_routed if topk else 1
    batch, heads, tokens, dim = query.shape
    plan = find_plan(
        lambda: choose_blocks(
            batch * heads, tokens, dim, landmarks.shape[2], topk, num_routed, query.element_size()
        ),
        [query, key, value, landmarks],
        topk, num_routed, shared,
    )  # fmt: skip
    experts = build_experts(query, key, value, landmarks, topk, num_routed, scale, shared, plan)
    out, lse = attend(
        query, key, value, landmarks, experts,
        topk, num_routed, scale, landmark_scale, shared, plan,
    )  # fmt: skip
    return Saved(out, lse, experts)
