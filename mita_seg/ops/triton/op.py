"""The kernels as operators with gradients, for eager mode, torch.compile and autograd alike."""

import torch
from torch import Tensor, library
from torch.autograd.function import once_differentiable
from torch.nn import Parameter

from . import pool
from .backward import mita_backward
from .blocks import tile_height
from .forward import Saved, empty_experts, mita_forward
from .launch import empty_like_query


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor | None,
    height: int,
    width: int,
    rows: int,
    columns: int,
    start: int,
    topk: int,
    num_routed: int,
    scale: float,
    landmark_scale: float,
    shared: bool,
) -> list[Tensor]:
    """MiTA attention with landmarks [B, H, m, d], or with ones pooled from the queries.

    The pooling takes the map [height, width] from token `start` on to [rows, columns]; all 0 where
    landmarks are given. Returns the output, the pooled landmarks (empty if given) and what else the
    backward pass needs.
    """
    pooled = query.new_empty(0)
    if landmarks is None:
        pooled = landmarks = pool.pool(query, (height, width), (rows, columns), start)
    saved = mita_forward(
        query, key, value, landmarks, topk, num_routed, scale, landmark_scale, shared
    )
    out, *rest = saved.flatten()
    return [out, pooled, *rest]


triton_attention = library.custom_op('mita_seg::triton_attention', _forward, mutates_args=())


@triton_attention.register_fake
def _(
    query, key, value, landmarks, height, width, rows, columns, start,
    topk, num_routed, scale, landmark_scale, shared,
):  # fmt: skip
    batch, heads, tokens, dim = query.shape
    num_routed = num_routed if topk else 1
    num_landmarks = rows * columns if landmarks is None else landmarks.shape[2]
    height_of_tiles = tile_height(tokens, num_landmarks, num_routed, query.element_size())
    pooled = (0,) if landmarks is not None else (batch, heads, num_landmarks, dim)
    experts = empty_experts(query, num_landmarks, topk, num_routed, shared, height_of_tiles)
    lse = query.new_empty(batch * heads, tokens, dtype=torch.float32)
    return [empty_like_query(query), query.new_empty(pooled), lse, *experts]


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor,
    saved: list[Tensor],
    height: int,
    width: int,
    rows: int,
    columns: int,
    start: int,
    topk: int,
    num_routed: int,
    scale: float,
    landmark_scale: float,
    shared: bool,
) -> list[Tensor]:
    """Gradients of query, key, value and, where they were given, landmarks."""
    pooled = rows > 0
    grad_query, grad_key, grad_value, grad_landmarks = mita_backward(
        grad, query, key, value, landmarks, Saved.unflatten(saved),
        topk, num_routed, scale, landmark_scale, shared,
        (height, width, rows, columns) if pooled else None,
    )  # fmt: skip
    if not pooled:
        if grad_landmarks is None:  # only routing uses them
            grad_landmarks = torch.zeros_like(landmarks)
        return [grad_query, grad_key, grad_value, grad_landmarks]
    if grad_landmarks is not None:
        pool.pool_backward(
            grad_landmarks, grad_query, (height, width), (rows, columns), start,
            averaged=True,
        )  # fmt: skip
    return [grad_query, grad_key, grad_value]


triton_attention_backward = library.custom_op(
    'mita_seg::triton_attention_backward', _backward, mutates_args=()
)


@triton_attention_backward.register_fake
def _(grad, query, key, value, landmarks, saved, height, width, rows, *options):
    gradients = [empty_like_query(tensor) for tensor in (query, key, value)]
    return gradients if rows else [*gradients, landmarks.new_empty(landmarks.shape)]


def _save(ctx, inputs, output):
    query, key, value, landmarks, *ctx.options = inputs
    out, pooled, *rest = output
    ctx.save_for_backward(query, key, value, pooled if landmarks is None else landmarks, out, *rest)
    ctx.mark_non_differentiable(pooled, *rest)


def _differentiate(ctx, grads, backward=triton_attention_backward):
    tensors = ctx.saved_tensors
    gradients = backward(grads[0], *tensors[:4], list(tensors[4:]), *ctx.options)
    return *gradients, *[None] * (14 - len(gradients))


triton_attention.register_autograd(_differentiate, setup_context=_save)


class _Attention(torch.autograd.Function):
    """The operator without the dispatcher, which takes longer than the kernels on small maps."""

    @staticmethod
    def forward(ctx, *inputs):
        output = _forward(*inputs)
        _save(ctx, inputs, output)
        return tuple(output)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        return _differentiate(ctx, grads, _backward)


def attention(query: Tensor, *arguments) -> Tensor:
    """`triton_attention`'s first result, by the shorter way where nothing looks on."""
    plain = type(query) in (Tensor, Parameter) and not torch.compiler.is_compiling()
    run = _Attention.apply if plain else triton_attention
    return run(query, *arguments)[0]


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
    grad_query = grad.new_zeros(*grad.shape[:2], tokens, grad.shape[3])
    pool.pool_backward(grad, grad_query, (height, width), (rows, columns), start, averaged=False)
    return grad_query


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
