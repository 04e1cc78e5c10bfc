"""The forward pass: pooling, probing, assignment of keys and queries to experts, attention."""

import torch
from torch import Tensor

from .attend import _attend_kernel, _merge_kernel
from .blocks import (
    MERGE_TOKENS,
    PROBE_QUERIES,
    SELECT_SCORES,
    Blocks,
    choose_blocks,
    share_tiles,
)
from .launch import LOG2E, cdiv, empty_like_query, is_wide, next_power_of_2, precision
from .plan import Plan
from .pool import pool
from .score_and_route import _probe_kernel
from .select_and_sort import _assign_kernel
from .state import State, empty_state, lay_out, view_state


def mita_forward(
    plan: Plan, query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor | None,
    height: int, width: int, rows: int, columns: int, start: int,
    topk: int, num_routed: int, scale: float, landmark_scale: float, shared: bool,
) -> None:  # fmt: skip
    """The operator's forward pass, arguments as those of `op.triton_attention`."""
    pooled = landmarks is None
    num_landmarks = rows * columns if pooled else landmarks.shape[2]
    num_routed = num_routed if topk else 1
    out = plan.result(empty_like_query(query))
    layout = lay_out(query, num_landmarks, pooled, topk, num_routed, shared)
    state = view_state(plan.result(empty_state(query, layout)), layout)
    if pooled:
        landmarks = state.landmarks
        pool(plan, query, landmarks, (height, width), (rows, columns), start)
    tensors = query, key, value, landmarks
    wide = any(is_wide(tensor) for tensor in (*tensors, out))
    blocks = choose_blocks(
        query.shape[0] * query.shape[1], query.shape[2], query.shape[3],
        num_landmarks, topk, num_routed, query.element_size(), plan.gpu,
    )  # fmt: skip
    _build_experts(plan, *tensors, state, topk, num_routed, scale, shared, blocks, wide)
    _attend(
        plan, *tensors, state, out, topk, num_routed, scale, landmark_scale, shared, blocks, wide
    )


def _build_experts(
    plan: Plan, query, key, value, landmarks, state: State,
    topk, num_routed, scale, shared, blocks: Blocks, wide,
):  # fmt: skip
    """query, key, value [B, H, N, d], landmarks [B, H, m, d]; topk 0: no routed experts."""
    batch, heads, tokens, dim = key.shape
    num_landmarks, rows = landmarks.shape[2], batch * heads
    num_rows = tokens * num_routed
    routed = topk > 0
    num_blocks = cdiv(tokens, blocks.key_block)
    chunks = cdiv(tokens, blocks.chunk) if routed else 0
    # What an option leaves out is some tensor all the same.
    scores = maxima = chosen = part = part_total = part_peak = row_expert = row_rank = counts = (
        query
    )
    if routed:
        scores = plan.scratch(rows, num_landmarks, tokens, dtype=torch.float32)
        row_expert, row_rank = plan.scratch(2, rows, num_rows, dtype=torch.int32)
        counts = plan.scratch(rows, chunks, num_landmarks, dtype=torch.int32)
        maxima = scores
        if blocks.key_block > 1:
            maxima = plan.scratch(rows, num_landmarks, num_blocks, dtype=torch.float32)
            chosen = plan.scratch(rows, num_landmarks, next_power_of_2(topk), dtype=torch.int32)
    if shared:
        parts = rows, blocks.splits, num_landmarks
        part = plan.scratch(*parts, dim, dtype=torch.float32)
        part_total, part_peak = plan.scratch(2, *parts, dtype=torch.float32)
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
        BLOCK_N=blocks.probe.rows, BLOCK_Q=PROBE_QUERIES, KEY_BLOCK=blocks.key_block,
        ROUTED=routed, SHARED=shared, PRECISION=precision(key.dtype), STAGES=blocks.probe.stages,
        EVEN=tokens % blocks.probe.rows == 0, WIDE=wide, **blocks.probe.launch,
    )  # fmt: skip

    num_tiles = state.tiles.shape[1] - 1
    block_rows = min(128 * blocks.select_warps, blocks.chunk)
    place_programs = cdiv(num_rows, block_rows) if routed else 0
    select_programs = num_landmarks if routed else 0
    merge_programs = num_landmarks if shared else 0
    per_step = max(1, SELECT_SCORES * blocks.select_warps // blocks.all_landmarks)
    plan.launch(
        _assign_kernel, ((select_programs + place_programs + merge_programs) * rows,),
        scores, maxima, chosen, state.indices, part, part_total, part_peak, state.values,
        state.landmark_lse, row_expert, row_rank, counts,
        state.row_of_slot, state.tiles, state.first_tile,
        rows, tokens, num_blocks, topk, blocks.splits, num_landmarks,
        num_rows, chunks, blocks.chunk * num_routed, num_tiles,
        select_programs, place_programs,
        D=dim, BLOCK_D=blocks.dim, BLOCK_S=min(16, next_power_of_2(blocks.splits)),
        KEY_BLOCK=blocks.key_block, BLOCK_K=next_power_of_2(max(topk, 1)),
        BLOCK_B=next_power_of_2(num_blocks), HEIGHT=blocks.height, ALL_M=blocks.all_landmarks,
        BLOCK_C=min(per_step, next_power_of_2(max(chunks, 1))), BLOCK_R=block_rows,
        BLOCK_T=min(per_step, 64),
        ROUTED=routed, SHARED=shared, num_warps=blocks.select_warps,
    )  # fmt: skip


def _attend(
    plan: Plan, query, key, value, landmarks, state: State, out,
    topk, num_routed, scale, landmark_scale, shared, blocks: Blocks, wide,
):  # fmt: skip
    """Writes the output [B, H, N, d] and the softmax sums."""
    batch, heads, tokens, dim = query.shape
    num_landmarks = landmarks.shape[2]
    rows, num_rows = batch * heads, tokens * num_routed
    lse = state.lse
    partial = num_routed > 1
    part_out, part_lse = out, lse
    if partial:
        part_out = plan.scratch(rows, num_rows, dim, dtype=query.dtype)
        part_lse = plan.scratch(rows, num_rows, dtype=lse.dtype)
    routed = topk > 0
    num_tiles = state.tiles.shape[1] - 1 if routed else cdiv(tokens, blocks.height)
    one_block = max(num_landmarks if shared else 0, topk) <= blocks.keys
    programs = num_tiles
    if one_block:
        # On average the last tile of an expert is half full.
        used = cdiv(num_rows, blocks.height) + (num_landmarks // 2 if routed else 0)
        programs = share_tiles(blocks.attend_programs, rows, used)
    options = blocks.attend if one_block else blocks.attend_several
    plan.launch(
        _attend_kernel, (programs, rows),
        query, key, value, landmarks, state.values, state.indices,
        state.row_of_slot, state.tiles, part_out, part_lse,
        *query.stride(), *key.stride(), *value.stride(), *landmarks.stride(), *out.stride(),
        heads, num_routed, num_tiles, num_rows, scale * LOG2E, landmark_scale * LOG2E,
        num_landmarks, topk,
        D=dim, BLOCK_D=blocks.dim, BLOCK_Q=blocks.height,
        BLOCK_K=min(options.rows, blocks.keys), BLOCK_C=blocks.columns if one_block else blocks.dim,
        SHARED=shared, ROUTED=routed, PARTIAL=partial, ONE_BLOCK=one_block,
        PRECISION=precision(query.dtype), STAGES=options.stages, WIDE=wide, **options.launch,
    )  # fmt: skip
    if partial:
        plan.launch(
            _merge_kernel, (cdiv(tokens, MERGE_TOKENS), rows),
            part_out, part_lse, out, lse, *out.stride(), heads, tokens, num_routed,
            D=dim, BLOCK_D=blocks.dim, WIDE=wide, BLOCK_N=MERGE_TOKENS,
        )  # fmt: skip
