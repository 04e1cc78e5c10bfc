"""The backward pass: shared expert, routed experts, queries, keys and values, landmarks."""

import torch
from torch import Tensor

from .blocks import ATTEND, BACKWARD, BACKWARD_PROGRAMS, ONE_WARP, PROGRAMS, Blocks, choose_blocks
from .expert_backward import _expert_backward_kernel
from .fold import _fold_kernel
from .key_backward import _key_backward_kernel
from .landmark_backward import _landmark_backward_kernel
from .launch import LOG2E, cdiv, empty_like_query, is_wide, next_power_of_2, precision
from .merge import _sum_rows_kernel
from .plan import Plan
from .pool import pool_backward
from .query_backward import _query_backward_kernel
from .reduce import _reduce_landmarks_kernel, _reduce_values_kernel
from .start_backward import _start_backward_kernel
from .state import State, lay_out, view_state


def mita_backward(
    plan: Plan, grad: Tensor, query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor | None,
    out: Tensor, state: Tensor, height: int, width: int, rows: int, columns: int, start: int,
    topk: int, num_routed: int, scale: float, landmark_scale: float, shared: bool,
) -> None:  # fmt: skip
    """The operator's backward pass: gradients of query, key, value and, if given, landmarks.

    Landmarks that were given and serve for routing alone get none.
    """
    pooled = landmarks is None
    num_landmarks = rows * columns if pooled else landmarks.shape[2]
    num_routed = num_routed if topk else 1
    layout = lay_out(query, num_landmarks, pooled, topk, num_routed, shared)
    state = view_state(state, layout)
    landmarks = state.landmarks if pooled else landmarks
    wide = any(is_wide(tensor) for tensor in (grad, query, key, value, landmarks))
    grads = [plan.result(empty_like_query(tensor)) for tensor in (query, key, value)]
    grad_landmarks = None
    if shared and pooled:  # sums, divided by the number of tokens in a landmark's window
        grad_landmarks = plan.scratch(*landmarks.shape, dtype=torch.float32)
    elif shared:
        grad_landmarks = plan.result(landmarks.new_empty(landmarks.shape))
    window = (height, width, rows, columns) if pooled else None
    _backward(
        plan, grad, query, key, value, landmarks, out, state, *grads, grad_landmarks, window,
        topk, num_routed, scale, landmark_scale, shared, wide,
    )  # fmt: skip
    if pooled and shared:
        pool_backward(
            plan, grad_landmarks, grads[0], (height, width), (rows, columns), start, averaged=True
        )


def _backward(
    plan: Plan, grad, query, key, value, landmarks, out, state: State,
    grad_query, grad_key, grad_value, grad_landmarks, window,
    topk, num_routed, scale, landmark_scale, shared, wide,
):  # fmt: skip
    """All but what the pooling adds to the gradient of the queries."""
    batch, heads, tokens, dim = query.shape
    num_landmarks, rows = landmarks.shape[2], batch * heads
    blocks = choose_blocks(rows, tokens, dim, num_landmarks, topk, num_routed, query.element_size())
    routed, partial = topk > 0, num_routed > 1
    # One program sees all landmarks, or all keys of an expert, and so completes other gradients.
    one_landmark_block = shared and num_landmarks <= blocks.landmarks
    one_pass = not partial and (one_landmark_block or not shared) and topk <= blocks.keys
    lse = state.lse
    common = {
        'D': dim, 'BLOCK_D': blocks.dim, 'PRECISION': precision(query.dtype),
        'WIDE': wide, 'num_stages': blocks.stages, **BACKWARD,
    }  # fmt: skip
    reduce = {
        'D': dim, 'BLOCK_D': blocks.dim,
        'BLOCK_S': min(16, next_power_of_2(blocks.backward_splits)),
        **ONE_WARP,
    }  # fmt: skip

    delta = plan.scratch(*lse.shape, dtype=lse.dtype)
    part_values = part_landmarks = grad_values = value_delta = query  # where left out
    if shared:
        parts = rows, blocks.backward_splits, num_landmarks, dim
        part_values, part_landmarks, part_keys = plan.scratch(3, *parts, dtype=torch.float32)
    shift = entry_start = query
    key_blocks = cdiv(tokens, blocks.rows)
    if routed:
        shift = plan.scratch(rows, key_blocks, num_landmarks, dtype=torch.int32)
        entry_start = plan.scratch(rows, key_blocks + 1, dtype=torch.int32)
    landmark_blocks = cdiv(num_landmarks, blocks.landmarks)
    shared_programs = blocks.backward_splits * (landmark_blocks if shared else 1)
    per_program = max(1, 1024 // blocks.all_landmarks)
    plan.launch(
        _start_backward_kernel,
        (shared_programs + (cdiv(key_blocks, per_program) if routed else 0), rows),
        query, grad, out, lse, delta, landmarks, state.values,
        part_values, part_landmarks, grad_query, state.indices, shift, entry_start,
        *query.stride(), *grad.stride(), *out.stride(), *landmarks.stride(), *grad_query.stride(),
        heads, tokens, num_landmarks, blocks.backward_splits, shared_programs,
        blocks.backward_tokens, landmark_scale * LOG2E, landmark_scale, topk, key_blocks,
        BLOCK_M=blocks.landmarks, BLOCK_Q=blocks.rows, KEYS=blocks.rows,
        SEARCH_STEPS=topk.bit_length(), BLOCK_B=per_program, ALL_M=blocks.all_landmarks,
        SHARED=shared, ROUTED=routed, WITH_QUERY=one_pass, STAGES=blocks.stages, **common,
    )  # fmt: skip
    if shared:
        grad_values = plan.scratch(*state.values.shape, dtype=query.dtype)
        value_delta = plan.scratch(*state.landmark_lse.shape, dtype=torch.float32)
        plan.launch(
            _reduce_values_kernel, (num_landmarks, rows),
            part_values, state.values, grad_values, value_delta,
            num_landmarks, blocks.backward_splits, **reduce,
        )  # fmt: skip

    if not one_pass:
        _grad_query(
            plan, grad_query, query, key, value, landmarks, grad, lse, delta, state,
            topk, num_routed, scale, landmark_scale, shared, blocks, wide,
        )  # fmt: skip

    if shared:
        # One block of landmarks: a program sums their gradient; else another kernel does.
        per_program = blocks.backward_tokens if one_landmark_block else blocks.rows
        plan.launch(
            _key_backward_kernel, (cdiv(tokens, per_program), rows),
            key, value, landmarks, state.landmark_lse, grad_values, value_delta,
            grad_key, grad_value, part_keys,
            *key.stride(), *value.stride(), *landmarks.stride(), *grad_key.stride(),
            *grad_value.stride(),
            heads, tokens, num_landmarks, blocks.backward_splits, per_program, scale * LOG2E, scale,
            BLOCK_N=blocks.rows, BLOCK_M=blocks.landmarks, ONE_BLOCK=one_landmark_block,
            STAGES=blocks.stages, **common,
        )  # fmt: skip
        if not one_landmark_block:
            plan.launch(
                _landmark_backward_kernel, (blocks.backward_splits, landmark_blocks, rows),
                key, value, landmarks, state.landmark_lse, grad_values, value_delta, part_keys,
                *key.stride(), *value.stride(), *landmarks.stride(),
                heads, tokens, num_landmarks, blocks.backward_splits, blocks.backward_tokens,
                scale * LOG2E, scale,
                BLOCK_N=blocks.rows, BLOCK_M=blocks.landmarks, STAGES=blocks.stages, **common,
            )  # fmt: skip
    if routed:
        _grad_routed(
            plan, grad_query, grad_key, grad_value, query, key, value, grad, lse, delta, state,
            shift, entry_start, topk, num_routed, scale, shared, one_pass, blocks, wide, common,
        )  # fmt: skip
    if shared:
        plan.launch(
            _reduce_landmarks_kernel, (num_landmarks, rows),
            part_landmarks, part_keys, grad_landmarks, num_landmarks, blocks.backward_splits,
            *(window or (1, 1, 1, num_landmarks)), AVERAGE=bool(window), **reduce,
        )  # fmt: skip


def _grad_query(
    plan: Plan, grad_query, query, key, value, landmarks, grad, lse, delta, state: State,
    topk, num_routed, scale, landmark_scale, shared, blocks: Blocks, wide,
):  # fmt: skip
    """Writes the gradient of the queries [B, H, N, d] in a pass of its own."""
    batch, heads, tokens, dim = query.shape
    rows, num_rows = batch * heads, tokens * num_routed
    routed, partial = topk > 0, num_routed > 1
    part_query = grad_query
    if partial:
        part_query = plan.scratch(rows, num_rows, dim, dtype=query.dtype)
    height = blocks.height if routed else blocks.rows
    num_tiles = state.tiles.shape[1] - 1 if routed else cdiv(tokens, height)
    plan.launch(
        _query_backward_kernel, (num_tiles, rows),
        query, key, value, landmarks, state.values, state.indices, grad, lse, delta,
        state.row_of_slot, state.tiles, part_query,
        *query.stride(), *key.stride(), *value.stride(), *landmarks.stride(), *grad.stride(),
        *grad_query.stride(),
        heads, tokens, landmarks.shape[2], topk, num_routed, num_tiles, num_rows,
        scale * LOG2E, scale, landmark_scale * LOG2E, landmark_scale,
        D=dim, BLOCK_D=blocks.dim, WIDE=wide,
        HEIGHT=height, BLOCK_K=blocks.keys, SHARED=shared, ROUTED=routed, PARTIAL=partial,
        PRECISION=precision(query.dtype), num_stages=blocks.stages, **ATTEND,
    )  # fmt: skip
    if partial:
        plan.launch(
            _sum_rows_kernel, (cdiv(tokens, 64), rows),
            part_query, grad_query, *grad_query.stride(), heads, tokens, num_routed,
            D=dim, BLOCK_D=blocks.dim, WIDE=wide, BLOCK_N=64,
        )  # fmt: skip


def _grad_routed(
    plan: Plan, grad_query, grad_key, grad_value, query, key, value, grad, lse, delta,
    state: State, shift, entry_start, topk, num_routed, scale, shared, one_pass,
    blocks: Blocks, wide, common,
):  # fmt: skip
    """Adds what the routed experts give; without a shared expert, writes it."""
    heads, tokens, dim = query.shape[1:]
    rows, num_landmarks = state.indices.shape[:2]
    num_entries, key_blocks = num_landmarks * topk, shift.shape[1]
    # Where experts overlap much, their gradients are larger than the keys': half the heads at once.
    part = cdiv(rows, 2) if num_entries > tokens else rows
    entry_key = plan.scratch(part, num_entries, dtype=torch.int32)
    entry_grad_key, entry_grad_value = plan.scratch(2, part, num_entries, dim, dtype=query.dtype)
    key_programs = cdiv(topk, blocks.keys)
    low = blocks.height <= 32  # tiles: fewer registers, so that more programs run at once
    programs = (PROGRAMS if low else BACKWARD_PROGRAMS) // (part * key_programs)
    programs = min(num_landmarks, max(1, programs))
    per_block = next_power_of_2(max(1, num_entries * blocks.rows // tokens))
    for first_head in range(0, rows, part):
        part_heads = min(part, rows - first_head)
        plan.launch(
            _expert_backward_kernel, (programs, key_programs, part_heads),
            query, key, value, state.indices, grad, lse, delta,
            state.row_of_slot, state.tiles, state.first_tile, shift,
            grad_query, entry_key, entry_grad_key, entry_grad_value,
            *query.stride(), *key.stride(), *value.stride(), *grad.stride(), *grad_query.stride(),
            first_head, heads, tokens, num_landmarks, topk, num_routed, state.tiles.shape[1] - 1,
            key_blocks, scale * LOG2E, scale,
            HEIGHT=blocks.height, BLOCK_K=blocks.keys, KEYS=blocks.rows,
            WITH_QUERY=one_pass, ADD=shared, STAGES=blocks.stages,
            **common, **({'maxnreg': 168} if low else {}),
        )  # fmt: skip
        plan.launch(
            _fold_kernel, (key_blocks, part_heads, 2),
            entry_start, entry_key, entry_grad_key, entry_grad_value, grad_key, grad_value,
            *grad_key.stride(), *grad_value.stride(),
            first_head, heads, tokens, num_entries, key_blocks,
            BLOCK_N=blocks.rows, BLOCK_E=min(blocks.rows, max(16, per_block)), ADD=shared,
            SPARSE=2 * per_block < blocks.rows, **common,
        )  # fmt: skip
