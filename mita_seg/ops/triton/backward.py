"""The backward pass: shared expert, queries, routed experts, keys and values."""

import torch
from torch import Tensor

from .blocks import choose_blocks
from .expert_backward import _expert_backward_kernel
from .forward import Saved
from .key_backward import _bounds_kernel, _key_backward_kernel, _reduce_landmarks_kernel
from .launch import LOG2E, cdiv, empty_like_query, next_power_of_2, precision
from .query_backward import _query_backward_kernel
from .shared_backward import _reduce_shared_kernel, _shared_backward_kernel


def mita_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor, saved: Saved,
    topk: int, num_routed: int, scale: float, landmark_scale: float, shared: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of query, key, value [B, H, N, d] and landmarks [B, H, m, d]."""
    batch, heads, tokens, dim = query.shape
    num_landmarks, rows = landmarks.shape[2], batch * heads
    if not topk:
        num_routed = 1
    blocks = choose_blocks(rows, tokens, dim, num_landmarks, topk, num_routed, query.element_size())
    dtype_precision = precision(query.dtype)
    as_float = {'dtype': torch.float32, 'device': query.device}
    empty = torch.empty(0, **as_float)
    experts, tiles = saved.experts, saved.tiles
    sizes = {'D': dim, 'BLOCK_D': blocks.dim}

    delta = torch.empty(rows, tokens, **as_float)
    part_values = part_landmarks = grad_values = value_delta = grad_landmarks = empty
    if shared:
        part_values = torch.empty(rows, blocks.splits, num_landmarks, dim, **as_float)
        part_landmarks = torch.empty_like(part_values)
        grad_values = query.new_empty(rows, num_landmarks, dim)
        value_delta = torch.empty(rows, num_landmarks, **as_float)
        grad_landmarks = torch.empty(rows, num_landmarks, dim, **as_float)
    landmark_blocks = cdiv(num_landmarks, blocks.landmarks) if shared else 1
    _shared_backward_kernel[(blocks.splits, landmark_blocks, rows)](
        query, grad, saved.out, saved.lse, delta, landmarks, experts.values,
        part_values, part_landmarks,
        *query.stride(), *grad.stride(), *saved.out.stride(), *landmarks.stride(),
        heads, tokens, num_landmarks, blocks.splits, blocks.tokens_per_split,
        landmark_scale * LOG2E, landmark_scale,
        BLOCK_M=blocks.landmarks, BLOCK_N=blocks.rows, SHARED=shared,
        PRECISION=dtype_precision, **sizes,
    )  # fmt: skip
    if shared:
        _reduce_shared_kernel[(num_landmarks, rows)](
            part_values, part_landmarks, experts.values, grad_values, value_delta, grad_landmarks,
            num_landmarks, blocks.splits,
            BLOCK_S=min(32, next_power_of_2(blocks.splits)), **sizes,
        )  # fmt: skip

    partial = num_routed > 1
    num_rows = tokens * num_routed
    grad_query = empty_like_query(query)
    part_query = query.new_empty(rows, num_rows, dim) if partial else grad_query
    routed = topk > 0
    height = blocks.height if routed else 64
    num_tiles = tiles.expert.shape[1] if routed else cdiv(tokens, height)
    _query_backward_kernel[(num_tiles, rows)](
        query, key, value, landmarks, experts.values, experts.indices, grad, saved.lse, delta,
        *tiles[:3], part_query,
        *query.stride(), *key.stride(), *value.stride(), *landmarks.stride(), *grad.stride(),
        *grad_query.stride(),
        heads, tokens, num_landmarks, topk, num_routed, num_tiles, num_rows,
        scale * LOG2E, scale, landmark_scale * LOG2E, landmark_scale,
        HEIGHT=height, BLOCK_K=blocks.keys, SHARED=shared, ROUTED=routed,
        PARTIAL=partial, PRECISION=dtype_precision, **sizes,
    )  # fmt: skip
    if partial:
        torch.sum(part_query.view(batch, heads, tokens, num_routed, dim), 3, out=grad_query)

    expert_grad_key = expert_grad_value = bounds = empty
    key_blocks = cdiv(tokens, blocks.rows)
    if routed:
        expert_grad_key = query.new_empty(rows, num_landmarks, topk, dim)
        expert_grad_value = torch.empty_like(expert_grad_key)
        _expert_backward_kernel[(num_landmarks, cdiv(topk, blocks.keys), rows)](
            query, key, value, experts.indices, grad, saved.lse, delta,
            tiles.row_of_slot, tiles.first, tiles.total, expert_grad_key, expert_grad_value,
            *query.stride(), *key.stride(), *value.stride(), *grad.stride(),
            heads, tokens, num_landmarks, topk, num_routed, tiles.row_of_slot.shape[1],
            blocks.height, scale * LOG2E, scale,
            BLOCK_Q=min(blocks.rows, blocks.height), BLOCK_K=blocks.keys, PRECISION=dtype_precision,
            **sizes,
        )  # fmt: skip
        bounds = torch.empty(
            rows, num_landmarks, key_blocks + 1, dtype=torch.int32, device=query.device
        )
        _bounds_kernel[(num_landmarks, rows, cdiv(key_blocks + 1, 64))](
            experts.indices, bounds, num_landmarks, topk, key_blocks + 1,
            BLOCK_N=blocks.rows, BLOCK_K=64, BLOCK_B=64,
        )  # fmt: skip

    grad_key, grad_value = empty_like_query(key), empty_like_query(value)
    part = torch.empty(rows, key_blocks, num_landmarks, dim, **as_float) if shared else empty
    _key_backward_kernel[(key_blocks, rows)](
        key, value, landmarks, experts.lse, grad_values, value_delta,
        experts.indices, bounds, expert_grad_key, expert_grad_value, grad_key, grad_value, part,
        *key.stride(), *value.stride(), *landmarks.stride(), *grad_key.stride(),
        *grad_value.stride(),
        heads, tokens, num_landmarks, topk, key_blocks + 1, key_blocks, scale * LOG2E, scale,
        BLOCK_N=blocks.rows, BLOCK_M=blocks.landmarks, ALL_M=blocks.all_landmarks,
        BLOCK_E=blocks.rows, SHARED=shared, ROUTED=routed, PRECISION=dtype_precision,
        **sizes,
    )  # fmt: skip
    if not shared:
        return grad_query, grad_key, grad_value, torch.zeros_like(landmarks)
    landmark_grad = landmarks.new_empty(batch, heads, num_landmarks, dim)
    _reduce_landmarks_kernel[(num_landmarks, rows)](
        part, grad_landmarks, landmark_grad, num_landmarks, key_blocks,
        BLOCK_S=min(32, next_power_of_2(key_blocks)), **sizes,
    )  # fmt: skip
    return grad_query, grad_key, grad_value, landmark_grad
