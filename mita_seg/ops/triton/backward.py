"""The backward pass: shared expert, routed experts, queries, keys and values, landmarks."""

import torch
from torch import Tensor

from .blocks import (
    MERGE_TOKENS,
    REDUCE,
    Blocks,
    choose_blocks,
    choose_entry_blocks,
    choose_reduce_blocks,
    share_experts,
)
from .launch import LOG2E, cdiv, empty_like_query, is_wide, next_power_of_2, precision
from .plan import Plan
from .pool import pool_backward
from .query_backward import _query_backward_kernel, _sum_rows_kernel
from .routed_backward import (
    _expert_backward_kernel,
    _fold_kernel,
    _fold_sparse_kernel,
    _prepare_keys_kernel,
)
from .shared_backward import (
    _key_backward_kernel,
    _landmark_backward_kernel,
    _reduce_landmarks_kernel,
    _shared_backward_kernel,
)
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
    grads = [plan.result(empty_like_query(tensor)) for tensor in (query, key, value)]
    wide = any(is_wide(tensor) for tensor in (grad, query, key, value, landmarks, out, *grads))
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
    blocks = choose_blocks(
        rows, tokens, dim, num_landmarks, topk, num_routed, query.element_size(), plan.gpu
    )
    routed, partial = topk > 0, num_routed > 1
    # One program sees all landmarks, or all keys of an expert, and so completes other gradients.
    one_landmark_block = shared and blocks.one_landmark_block
    one_pass = not partial and (one_landmark_block or not shared) and blocks.one_key_block
    lse = state.lse
    common = {
        'D': dim, 'BLOCK_D': blocks.dim, 'PRECISION': precision(query.dtype), 'WIDE': wide
    }  # fmt: skip

    delta = plan.scratch(*lse.shape, dtype=torch.float32)
    part_values = part_landmarks = grad_values = value_delta = query  # where left out
    if shared:
        parts = rows, blocks.backward_splits, num_landmarks, dim
        part_values, part_landmarks, part_keys = plan.scratch(3, *parts, dtype=torch.float32)
    landmark_blocks = cdiv(num_landmarks, blocks.landmarks)
    plan.launch(
        _shared_backward_kernel,
        (blocks.backward_splits, landmark_blocks if shared else 1, rows),
        query, grad, out, lse, delta, landmarks, state.values,
        part_values, part_landmarks, grad_query,
        *query.stride(), *grad.stride(), *out.stride(), *landmarks.stride(), *grad_query.stride(),
        heads, tokens, num_landmarks, blocks.backward_splits, blocks.backward_tokens,
        landmark_scale * LOG2E, landmark_scale,
        BLOCK_M=blocks.landmarks, BLOCK_Q=blocks.shared_backward.rows,
        SHARED=shared, WITH_QUERY=one_pass, EVEN=tokens % blocks.shared_backward.rows == 0,
        STAGES=blocks.shared_backward.stages,
        **common, **blocks.shared_backward.launch,
    )  # fmt: skip
    shift = entry_start = query
    key_blocks = cdiv(tokens, blocks.rows)
    if shared:
        grad_values = plan.scratch(*state.values.shape, dtype=query.dtype)
        value_delta = plan.scratch(*state.landmark_lse.shape, dtype=torch.float32)
    if routed:
        shift = plan.scratch(rows, key_blocks, num_landmarks, dtype=torch.int32)
        entry_start = plan.scratch(rows, key_blocks + 1, dtype=torch.int32)
    heads_at_once, expert_programs = share_experts(blocks, rows, tokens, num_landmarks, topk)
    place_programs, place = choose_entry_blocks(blocks.all_landmarks, key_blocks)
    reduce = choose_reduce_blocks(blocks, place['num_warps'])
    reduce_programs = cdiv(num_landmarks, reduce['BLOCK_M']) if shared else 0
    plan.launch(
        _prepare_keys_kernel, (reduce_programs + (place_programs if routed else 0), rows),
        part_values, state.values, grad_values, value_delta,
        state.indices, state.tiles, state.first_tile, shift, entry_start,
        num_landmarks, blocks.backward_splits, reduce_programs, topk, key_blocks,
        state.tiles.shape[1] - 1, expert_programs,
        D=dim, BLOCK_D=blocks.dim, SHARED=shared, ROUTED=routed, KEYS=blocks.rows,
        TOPK_BITS=topk.bit_length(), ALL_M=blocks.all_landmarks, **reduce, **place,
    )  # fmt: skip

    if not one_pass:
        _grad_query(
            plan, grad_query, query, key, value, landmarks, grad, lse, delta, state,
            topk, num_routed, scale, landmark_scale, shared, blocks, wide,
        )  # fmt: skip

    if shared:
        # One block of landmarks: a program sums their gradient; else another kernel does.
        options = blocks.key_backward
        per_program = blocks.backward_tokens if one_landmark_block else options.rows
        plan.launch(
            _key_backward_kernel, (cdiv(tokens, per_program), rows),
            key, value, landmarks, state.landmark_lse, grad_values, value_delta,
            grad_key, grad_value, part_keys,
            *key.stride(), *value.stride(), *landmarks.stride(), *grad_key.stride(),
            *grad_value.stride(),
            heads, tokens, num_landmarks, blocks.backward_splits, per_program, scale * LOG2E, scale,
            BLOCK_N=options.rows, BLOCK_M=blocks.landmarks, ONE_BLOCK=one_landmark_block,
            EVEN=tokens % options.rows == 0, STAGES=options.stages, **common, **options.launch,
        )  # fmt: skip
        if not one_landmark_block:
            options = blocks.landmark_backward
            plan.launch(
                _landmark_backward_kernel, (blocks.backward_splits, landmark_blocks, rows),
                key, value, landmarks, state.landmark_lse, grad_values, value_delta, part_keys,
                *key.stride(), *value.stride(), *landmarks.stride(),
                heads, tokens, num_landmarks, blocks.backward_splits, blocks.backward_tokens,
                scale * LOG2E, scale,
                BLOCK_N=options.rows, BLOCK_M=blocks.landmarks, EVEN=tokens % options.rows == 0,
                STAGES=options.stages, **common, **options.launch,
            )  # fmt: skip
    if routed:
        _grad_routed(
            plan, grad_query, grad_key, grad_value, query, key, value, grad, lse, delta, state,
            shift, entry_start, heads_at_once, expert_programs,
            topk, num_routed, scale, shared, one_pass, blocks, wide, common,
        )  # fmt: skip
    if shared:
        reduce = choose_reduce_blocks(blocks, **REDUCE)
        plan.launch(
            _reduce_landmarks_kernel, (cdiv(num_landmarks, reduce['BLOCK_M']), rows),
            part_landmarks, part_keys, grad_landmarks, num_landmarks, blocks.backward_splits,
            *(window or (1, 1, 1, num_landmarks)), AVERAGE=bool(window),
            D=dim, BLOCK_D=blocks.dim, **reduce, **REDUCE,
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
    num_tiles = state.tiles.shape[1] - 1 if routed else cdiv(tokens, blocks.height)
    plan.launch(
        _query_backward_kernel, (num_tiles, rows),
        query, key, value, landmarks, state.values, state.indices, grad, lse, delta,
        state.row_of_slot, state.tiles, part_query,
        *query.stride(), *key.stride(), *value.stride(), *landmarks.stride(), *grad.stride(),
        *grad_query.stride(),
        heads, tokens, num_routed, num_tiles, num_rows,
        scale * LOG2E, scale, landmark_scale * LOG2E, landmark_scale, landmarks.shape[2], topk,
        D=dim, BLOCK_D=blocks.dim, WIDE=wide,
        HEIGHT=blocks.height, BLOCK_K=min(blocks.query_backward.rows, blocks.keys),
        SHARED=shared, ROUTED=routed, PARTIAL=partial,
        PRECISION=precision(query.dtype), **blocks.query_backward.launch,
    )  # fmt: skip
    if partial:
        plan.launch(
            _sum_rows_kernel, (cdiv(tokens, MERGE_TOKENS), rows),
            part_query, grad_query, *grad_query.stride(), heads, tokens, num_routed,
            D=dim, BLOCK_D=blocks.dim, WIDE=wide, BLOCK_N=MERGE_TOKENS,
        )  # fmt: skip


def _grad_routed(
    plan: Plan, grad_query, grad_key, grad_value, query, key, value, grad, lse, delta,
    state: State, shift, entry_start, heads_at_once, expert_programs,
    topk, num_routed, scale, shared, one_pass, blocks: Blocks, wide, common,
):  # fmt: skip
    """Adds what the routed experts give; without a shared expert, writes it."""
    heads, tokens, dim = query.shape[1:]
    rows, num_landmarks = state.indices.shape[:2]
    key_blocks = shift.shape[1]
    # Each program but a head's first may begin within an expert, and so add a segment of it.
    num_entries = (num_landmarks + expert_programs - 1) * topk  # at most
    entry_key = plan.scratch(heads_at_once, num_entries, dtype=torch.int32)
    entry_grad_key, entry_grad_value = plan.scratch(
        2, heads_at_once, num_entries, dim, dtype=query.dtype
    )
    held = num_landmarks * topk  # keys of all experts
    options = blocks.expert_backward
    for first_head in range(0, rows, heads_at_once):
        part_heads = min(heads_at_once, rows - first_head)
        plan.launch(
            _expert_backward_kernel,
            (expert_programs, cdiv(topk, blocks.keys), part_heads),
            query, key, value, state.indices, grad, lse, delta,
            state.row_of_slot, state.tiles, state.first_tile, shift,
            grad_query, entry_key, entry_grad_key, entry_grad_value,
            *query.stride(), *key.stride(), *value.stride(), *grad.stride(), *grad_query.stride(),
            first_head, heads, tokens, num_landmarks, topk, num_routed, state.tiles.shape[1] - 1,
            key_blocks, num_entries, scale * LOG2E, scale,
            HEIGHT=blocks.height, BLOCK_Q=options.rows, BLOCK_K=blocks.keys, KEYS=blocks.rows,
            WITH_QUERY=one_pass, ADD=shared, STAGES=options.stages, **common, **options.launch,
        )  # fmt: skip
        if shared and held < tokens:
            key_blocks_per_program = tokens // held
            plan.launch(
                _fold_sparse_kernel, (cdiv(key_blocks, key_blocks_per_program), part_heads),
                entry_start, entry_key, entry_grad_key, entry_grad_value, grad_key, grad_value,
                *grad_key.stride(), *grad_value.stride(),
                first_head, heads, num_entries, key_blocks, key_blocks_per_program,
                BLOCK_E=blocks.fold_sparse.rows, **common, **blocks.fold_sparse.launch,
            )  # fmt: skip
            continue
        plan.launch(
            _fold_kernel, (key_blocks, part_heads),
            entry_start, entry_key, entry_grad_key, entry_grad_value, grad_key, grad_value,
            *grad_key.stride(), *grad_value.stride(),
            first_head, heads, tokens, num_entries, key_blocks,
            BLOCK_N=blocks.rows,
            BLOCK_E=min(
                blocks.fold.rows, max(16, next_power_of_2(cdiv(held * blocks.rows, tokens)))
            ),
            ADD=shared, **common, **blocks.fold.launch,
        )  # fmt: skip
