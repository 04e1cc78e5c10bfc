"""The backward pass: shared expert, routed experts, queries, keys and values, landmarks."""

import torch
from torch import Tensor

from .blocks import ATTEND, BACKWARD, BACKWARD_PROGRAMS, ONE_WARP, PROGRAMS, choose_blocks
from .entries import _entries_kernel
from .expert_backward import _expert_backward_kernel
from .fold import _fold_kernel
from .forward import Saved
from .key_backward import _key_backward_kernel
from .landmark_backward import _landmark_backward_kernel
from .launch import (
    LOG2E,
    cdiv,
    empty_like_query,
    find_plan,
    next_power_of_2,
    on_its_device,
    precision,
)
from .query_backward import _query_backward_kernel
from .reduce import _reduce_landmarks_kernel, _reduce_values_kernel
from .shared_backward import _shared_backward_kernel


@on_its_device
def mita_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor, saved: Saved,
    topk: int, num_routed: int, scale: float, landmark_scale: float, shared: bool,
    window: tuple[int, int, int, int] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients of query, key, value [B, H, N, d] and landmarks [B, H, m, d].

    window: (h, w, mh, mw) of pooled landmarks, whose gradient comes in float32 and divided by the
    number of tokens in each window. It is None without a shared expert.
    """
    batch, heads, tokens, dim = query.shape
    num_landmarks, rows = landmarks.shape[2], batch * heads
    num_routed = num_routed if topk else 1
    plan = find_plan(
        lambda: choose_blocks(
            rows, tokens, dim, num_landmarks, topk, num_routed, query.element_size()
        ),
        [grad, query, key, value, landmarks],
        topk, num_routed, shared, window,
    )  # fmt: skip
    blocks = plan.blocks
    routed, partial = topk > 0, num_routed > 1
    # One program sees all landmarks, or all keys of an expert, and so completes other gradients.
    one_landmark_block = shared and num_landmarks <= blocks.landmarks
    one_pass = not partial and (one_landmark_block or not shared) and topk <= blocks.keys
    out, lse, experts = saved
    common = {
        'D': dim, 'BLOCK_D': blocks.dim, 'PRECISION': precision(query.dtype),
        'WIDE': plan.wide, 'num_stages': blocks.stages, **BACKWARD,
    }  # fmt: skip
    reduce = {
        'D': dim, 'BLOCK_D': blocks.dim,
        'BLOCK_S': min(16, next_power_of_2(blocks.backward_splits)),
        **ONE_WARP,
    }  # fmt: skip

    grad_query = empty_like_query(query)
    delta = torch.empty_like(lse)
    part_values = part_landmarks = grad_values = value_delta = query  # where left out
    if shared:
        part_values, part_landmarks = query.new_empty(
            2, rows, blocks.backward_splits, num_landmarks, dim, dtype=torch.float32
        )
    landmark_blocks = cdiv(num_landmarks, blocks.landmarks)
    plan.launch(
        _shared_backward_kernel,
        (blocks.backward_splits, landmark_blocks if shared else 1, rows),
        query, grad, out, lse, delta, landmarks, experts.values,
        part_values, part_landmarks, grad_query,
        *query.stride(), *grad.stride(), *out.stride(), *landmarks.stride(), *grad_query.stride(),
        heads, tokens, num_landmarks, blocks.backward_splits, blocks.backward_tokens,
        landmark_scale * LOG2E, landmark_scale,
        BLOCK_M=blocks.landmarks, BLOCK_Q=blocks.rows, SHARED=shared, WITH_QUERY=one_pass,
        STAGES=blocks.stages, **common,
    )  # fmt: skip
    if shared:
        grad_values = torch.empty_like(experts.values)
        value_delta = torch.empty_like(experts.lse)
        plan.launch(
            _reduce_values_kernel, (num_landmarks, rows),
            part_values, experts.values, grad_values, value_delta,
            num_landmarks, blocks.backward_splits, **reduce,
        )  # fmt: skip

    if not one_pass:
        _grad_query(
            grad_query, query, key, value, landmarks, grad, lse, delta, experts,
            topk, num_routed, scale, landmark_scale, shared, plan,
        )  # fmt: skip

    grad_key, grad_value = empty_like_query(key), empty_like_query(value)
    if shared:
        part_keys = torch.empty_like(part_landmarks)
        # One block of landmarks: a program sums their gradient; else another kernel does.
        per_program = blocks.backward_tokens if one_landmark_block else blocks.rows
        plan.launch(
            _key_backward_kernel, (cdiv(tokens, per_program), rows),
            key, value, landmarks, experts.lse, grad_values, value_delta,
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
                key, value, landmarks, experts.lse, grad_values, value_delta, part_keys,
                *key.stride(), *value.stride(), *landmarks.stride(),
                heads, tokens, num_landmarks, blocks.backward_splits, blocks.backward_tokens,
                scale * LOG2E, scale,
                BLOCK_N=blocks.rows, BLOCK_M=blocks.landmarks, STAGES=blocks.stages, **common,
            )  # fmt: skip
    if routed:
        _grad_routed(
            grad_query, grad_key, grad_value, query, key, value, grad, lse, delta, experts,
            topk, num_routed, scale, shared, one_pass, common, plan,
        )  # fmt: skip
    if not shared:
        return grad_query, grad_key, grad_value, None
    grad_landmarks = query.new_empty(
        batch, heads, num_landmarks, dim, dtype=torch.float32 if window else landmarks.dtype
    )
    plan.launch(
        _reduce_landmarks_kernel, (num_landmarks, rows),
        part_landmarks, part_keys, grad_landmarks, num_landmarks, blocks.backward_splits,
        *(window or (1, 1, 1, num_landmarks)), AVERAGE=bool(window), **reduce,
    )  # fmt: skip
    return grad_query, grad_key, grad_value, grad_landmarks


def _grad_query(
    grad_query, query, key, value, landmarks, grad, lse, delta, experts,
    topk, num_routed, scale, landmark_scale, shared, plan,
):  # fmt: skip
    """Writes the gradient of the queries [B, H, N, d] in a pass of its own."""
    blocks = plan.blocks
    batch, heads, tokens, dim = query.shape
    rows, num_rows = batch * heads, tokens * num_routed
    routed, partial = topk > 0, num_routed > 1
    part_query = query.new_empty(rows, num_rows, dim) if partial else grad_query
    height = blocks.height if routed else blocks.rows
    num_tiles = experts.tiles.shape[1] - 1 if routed else cdiv(tokens, height)
    plan.launch(
        _query_backward_kernel, (num_tiles, rows),
        query, key, value, landmarks, experts.values, experts.indices, grad, lse, delta,
        experts.row_of_slot, experts.tiles, part_query,
        *query.stride(), *key.stride(), *value.stride(), *landmarks.stride(), *grad.stride(),
        *grad_query.stride(),
        heads, tokens, landmarks.shape[2], topk, num_routed, num_tiles, num_rows,
        scale * LOG2E, scale, landmark_scale * LOG2E, landmark_scale,
        D=dim, BLOCK_D=blocks.dim, WIDE=plan.wide,
        HEIGHT=height, BLOCK_K=blocks.keys, SHARED=shared, ROUTED=routed, PARTIAL=partial,
        PRECISION=precision(query.dtype), num_stages=blocks.stages, **ATTEND,
    )  # fmt: skip
    if partial:
        torch.sum(part_query.view(batch, heads, tokens, num_routed, dim), 3, out=grad_query)


def _grad_routed(
    grad_query, grad_key, grad_value, query, key, value, grad, lse, delta, experts,
    topk, num_routed, scale, shared, one_pass, common, plan,
):  # fmt: skip
    """Adds what the routed experts give; without a shared expert, writes it."""
    heads, tokens, dim = query.shape[1:]
    rows, num_landmarks = experts.indices.shape[:2]
    blocks = plan.blocks
    num_entries = num_landmarks * topk
    key_blocks = cdiv(tokens, blocks.rows)
    shift = query.new_empty(rows, key_blocks, num_landmarks, dtype=torch.int32)
    start = query.new_empty(rows, key_blocks + 1, dtype=torch.int32)
    per_program = max(1, 1024 // blocks.all_landmarks)
    plan.launch(
        _entries_kernel, (cdiv(key_blocks, per_program), rows),
        experts.indices, shift, start, num_landmarks, topk, key_blocks,
        KEYS=blocks.rows, STEPS=topk.bit_length(), BLOCK_B=per_program,
        ALL_M=blocks.all_landmarks, **BACKWARD,
    )  # fmt: skip
    # Where experts overlap much, their gradients are larger than the keys': half the heads at once.
    part = cdiv(rows, 2) if num_entries > tokens else rows
    entry_key = query.new_empty(part, num_entries, dtype=torch.int32)
    entry_grad_key, entry_grad_value = query.new_empty(2, part, num_entries, dim)
    key_programs = cdiv(topk, blocks.keys)
    low = blocks.height <= 32  # tiles: fewer registers, so that more programs run at once
    programs = (PROGRAMS if low else BACKWARD_PROGRAMS) // (part * key_programs)
    programs = min(num_landmarks, max(1, programs))
    per_block = next_power_of_2(max(1, num_entries * blocks.rows // tokens))
    for first_head in range(0, rows, part):
        part_heads = min(part, rows - first_head)
        plan.launch(
            _expert_backward_kernel, (programs, key_programs, part_heads),
            query, key, value, experts.indices, grad, lse, delta,
            experts.row_of_slot, experts.tiles, experts.first_tile, shift,
            grad_query, entry_key, entry_grad_key, entry_grad_value,
            *query.stride(), *key.stride(), *value.stride(), *grad.stride(), *grad_query.stride(),
            first_head, heads, tokens, num_landmarks, topk, num_routed, experts.tiles.shape[1] - 1,
            key_blocks, scale * LOG2E, scale,
            HEIGHT=blocks.height, BLOCK_K=blocks.keys, KEYS=blocks.rows,
            WITH_QUERY=one_pass, ADD=shared, STAGES=blocks.stages,
            **common, **({'maxnreg': 168} if low else {}),
        )  # fmt: skip
        plan.launch(
            _fold_kernel, (key_blocks, part_heads, 2),
            start, entry_key, entry_grad_key, entry_grad_value, grad_key, grad_value,
            *grad_key.stride(), *grad_value.stride(),
            first_head, heads, tokens, num_entries, key_blocks,
            BLOCK_N=blocks.rows, BLOCK_E=min(blocks.rows, max(16, per_block)), ADD=shared,
            SPARSE=2 * per_block < blocks.rows, **common,
        )  # fmt: skip
