"""The kernels as operators with gradients, for eager mode, torch.compile and autograd alike."""

import torch
from torch import Tensor, library

from . import pool
from .backward import mita_backward
from .blocks import choose_blocks
from .forward import Saved, mita_forward
from .launch import empty_like_query


@library.custom_op('mita_seg::triton_attention', mutates_args=())
def triton_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor,
    topk: int,
    num_routed: int,
    scale: float,
    landmark_scale: float,
    shared: bool,
) -> list[Tensor]:
    """MiTA attention. [output, and what the backward pass needs]; an option left out is empty."""
    return mita_forward(
        query, key, value, landmarks, topk, num_routed, scale, landmark_scale, shared
    ).flatten()


@triton_attention.register_fake
def _(query, key, value, landmarks, topk, num_routed, scale, landmark_scale, shared):
    batch, heads, tokens, dim = query.shape
    rows, num_landmarks = batch * heads, landmarks.shape[2]
    routed = num_routed if topk else 1
    blocks = choose_blocks(rows, tokens, dim, num_landmarks, topk, routed, query.element_size())
    tiles = (tokens * routed + num_landmarks * (blocks.height - 1)) // blocks.height
    as_float, as_int = {'dtype': torch.float32}, {'dtype': torch.int32}
    shared_size = num_landmarks if shared else 0
    routed_size = num_landmarks if topk else 0
    tiles = tiles if topk else 0
    return [
        empty_like_query(query),
        query.new_empty(rows, tokens, **as_float),
        query.new_empty(rows, shared_size, dim),
        query.new_empty(rows, shared_size, **as_float),
        query.new_empty(rows, num_landmarks, topk, **as_int),
        query.new_empty(rows, tiles * blocks.height, **as_int),
        query.new_empty(rows, tiles, **as_int),
        query.new_empty(rows, tiles, **as_int),
        query.new_empty(rows, routed_size, **as_int),
        query.new_empty(rows, routed_size, **as_int),
    ]


@library.custom_op('mita_seg::triton_attention_backward', mutates_args=())
def triton_attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor,
    saved: list[Tensor],
    topk: int,
    num_routed: int,
    scale: float,
    landmark_scale: float,
    shared: bool,
) -> list[Tensor]:
    """Gradients of query, key, value and landmarks."""
    state = Saved.unflatten(saved)
    gradients = mita_backward(
        grad, query, key, value, landmarks, state,
        topk, num_routed, scale, landmark_scale, shared,
    )  # fmt: skip
    return list(gradients)


@triton_attention_backward.register_fake
def _(grad, query, key, value, landmarks, saved, *options):
    return [*map(empty_like_query, (query, key, value)), landmarks.new_empty(landmarks.shape)]


def _save(ctx, inputs, output):
    *tensors, ctx.topk, ctx.num_routed, ctx.scale, ctx.landmark_scale, ctx.shared = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(*output[1:])


def _differentiate(ctx, grads):
    query, key, value, landmarks, *saved = ctx.saved_tensors
    gradients = torch.ops.mita_seg.triton_attention_backward(
        grads[0], query, key, value, landmarks, saved,
        ctx.topk, ctx.num_routed, ctx.scale, ctx.landmark_scale, ctx.shared,
    )  # fmt: skip
    return *gradients, None, None, None, None, None


triton_attention.register_autograd(_differentiate, setup_context=_save)


@library.custom_op('mita_seg::triton_pool', mutates_args=())
def triton_pool(
    query: Tensor, height: int, width: int, rows: int, columns: int, start: int
) -> Tensor:
    """Landmarks [B, H, rows * columns, d] pooled from the patches of the queries [B, H, N, d]."""
    return pool.pool(query, (height, width), (rows, columns), start)


@triton_pool.register_fake
def _(query, height, width, rows, columns, start):
    return query.new_empty(*query.shape[:2], rows * columns, query.shape[3])


@library.custom_op('mita_seg::triton_pool_backward', mutates_args=())
def triton_pool_backward(
    grad: Tensor, tokens: int, height: int, width: int, rows: int, columns: int, start: int
) -> Tensor:
    """Gradient of the queries [B, H, tokens, d]."""
    return pool.pool_backward(grad, tokens, (height, width), (rows, columns), start)


@triton_pool_backward.register_fake
def _(grad, tokens, height, width, rows, columns, start):
    return grad.new_empty(*grad.shape[:2], tokens, grad.shape[3])


def _save_grid(ctx, inputs, output):
    query, *ctx.grid = inputs
    ctx.tokens = query.shape[2]


def _differentiate_pool(ctx, grad):
    grad_query = torch.ops.mita_seg.triton_pool_backward(grad, ctx.tokens, *ctx.grid)
    return grad_query, None, None, None, None, None


triton_pool.register_autograd(_differentiate_pool, setup_context=_save_grid)
