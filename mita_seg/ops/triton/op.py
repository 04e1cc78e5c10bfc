"""The kernels as operators with gradients, for eager mode, torch.compile and autograd alike."""

from collections.abc import Callable

import torch
from torch import Tensor, library
from torch.nn import Parameter

from ..surroundings import fold, in_transform, unfold
from .backward import mita_backward
from .derivatives import differentiate_gradients
from .fallback import differentiate_in_torch, or_else
from .forward import mita_forward
from .launch import empty_like_query
from .plan import call
from .pool import pool, pool_backward
from .state import empty_state, lay_out


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
    landmarks are given. Returns the output and, as bytes, what else the backward pass needs.
    """
    tensors = query, key, value, landmarks
    options = (
        height, width, rows, columns, start, topk, num_routed, scale, landmark_scale, shared
    )  # fmt: skip
    return call(mita_forward, tensors, options)


triton_attention = library.custom_op('mita_seg::triton_attention', _forward, mutates_args=())


@triton_attention.register_fake
def _(
    query, key, value, landmarks, height, width, rows, columns, start,
    topk, num_routed, scale, landmark_scale, shared,
):  # fmt: skip
    num_landmarks = rows * columns if landmarks is None else landmarks.shape[2]
    num_routed = num_routed if topk else 1
    layout = lay_out(query, num_landmarks, landmarks is None, topk, num_routed, shared)
    return [empty_like_query(query), empty_state(query, layout)]


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor | None,
    out: Tensor,
    state: Tensor,
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
    tensors = grad, query, key, value, landmarks, out, state
    options = (
        height, width, rows, columns, start, topk, num_routed, scale, landmark_scale, shared
    )  # fmt: skip
    gradients = call(mita_backward, tensors, options)
    if landmarks is not None and not shared:  # only routing uses them
        gradients.append(torch.zeros_like(landmarks))
    return gradients


triton_attention_backward = library.custom_op(
    'mita_seg::triton_attention_backward', _backward, mutates_args=()
)


@triton_attention_backward.register_fake
def _(grad, query, key, value, landmarks, *rest):
    gradients = [empty_like_query(tensor) for tensor in (query, key, value)]
    if landmarks is not None:
        gradients.append(landmarks.new_empty(landmarks.shape))
    return gradients


def _save_gradients(ctx, inputs, output):
    grad, query, key, value, landmarks, _, _, *ctx.options = inputs
    ctx.save_for_backward(grad, query, key, value, landmarks)


def _differentiate_gradients(ctx, *grads):
    grad, *inputs = ctx.saved_tensors
    gradients = differentiate_gradients(grads, grad, inputs, ctx.options)
    return *gradients, *[None] * (17 - len(gradients))


triton_attention_backward.register_autograd(
    lambda ctx, grads: _differentiate_gradients(ctx, *grads), setup_context=_save_gradients
)


def _save(ctx, inputs, output):
    query, key, value, landmarks, *ctx.options = inputs
    out, state = output
    ctx.save_for_backward(query, key, value, landmarks, out, state)
    ctx.mark_non_differentiable(state)
    ctx.set_materialize_grads(False)  # no zeros for the state


def _differentiate(ctx, grads, backward=triton_attention_backward):
    gradients = backward(grads[0], *ctx.saved_tensors, *ctx.options)
    return *gradients, *[None] * (14 - len(gradients))


triton_attention.register_autograd(_differentiate, setup_context=_save)


class _Attention(torch.autograd.Function):
    """The operator without the dispatcher, which takes longer than the kernels on small maps."""

    @staticmethod
    def forward(ctx, instead, *inputs):
        output = _forward(*inputs)
        _save(ctx, inputs, output)
        ctx.instead = instead
        return tuple(output)

    @staticmethod
    def backward(ctx, *grads):
        if torch._C._functorch.is_legacy_batchedtensor(grads[0]):
            raise NotImplementedError(
                "backend='triton' has no batched gradients (is_grads_batched=True, jacobian with "
                "vectorize=True), backend='tiled' has; torch.func.jacrev takes either"
            )
        watched = torch.is_grad_enabled() or in_transform()

        def differentiate():
            return _differentiate(ctx, grads, _Gradients.apply if watched else _backward)

        def differentiate_instead():
            return differentiate_in_torch(ctx.instead, ctx.saved_tensors[:4], grads[0], 14)

        return None, *or_else(differentiate, ctx.instead and differentiate_instead)


class _Transformed(torch.autograd.Function):
    """The operator under torch.func."""

    @staticmethod
    def forward(*inputs):
        return tuple(_forward(*inputs))

    setup_context = staticmethod(_save)

    @staticmethod
    def backward(ctx, *grads):
        return _differentiate(ctx, grads, _Gradients.apply)

    @staticmethod
    def vmap(info, in_dims, *inputs):
        tensors = fold(info.batch_size, in_dims, inputs[:4])
        out, state = _Transformed.apply(*tensors, *inputs[4:])
        # The state is that of the whole batch, and goes to the backward pass as it is.
        return (unfold(info.batch_size, out), state), (0, None)


class _Gradients(torch.autograd.Function):
    """The backward pass under torch.func, and where its gradients may get gradients."""

    @staticmethod
    def forward(*inputs):
        return tuple(_backward(*inputs))

    setup_context = staticmethod(_save_gradients)
    backward = staticmethod(_differentiate_gradients)

    @staticmethod
    def vmap(info, in_dims, grad, *inputs):
        size, options = info.batch_size, inputs[6:]
        if in_dims[5] is None:  # one forward pass, many gradients of its output
            results = [_Gradients.apply(each, *inputs) for each in grad.unbind(in_dims[0])]
            gradients = [torch.stack(each) for each in zip(*results, strict=True)]
            return tuple(gradients), (0,) * len(gradients)
        *tensors, out = fold(size, in_dims, (grad, *inputs[:5]))
        gradients = _Gradients.apply(*tensors, out, inputs[5], *options)
        return tuple(unfold(size, each) for each in gradients), (0,) * len(gradients)


def attention(query: Tensor, *arguments, instead: Callable | None = None) -> Tensor:
    """`triton_attention`'s first result, by the shorter way where nothing looks on.

    Args:
        query, arguments: As of `triton_attention`.
        instead: Called with query, key, value and landmarks, the latter None if they are pooled;
            computes the output where the machine lacks what a kernel takes. None: raise.
    """
    if type(query) not in (Tensor, Parameter) or torch.compiler.is_compiling():
        return triton_attention(query, *arguments)[0]

    def attend():
        if in_transform():
            return _Transformed.apply(query, *arguments)[0]
        if torch.is_grad_enabled():
            return _Attention.apply(instead, query, *arguments)[0]
        return _forward(query, *arguments)[0]

    return or_else(attend, instead and (lambda: instead(query, *arguments[:3])))


@library.custom_op('mita_seg::triton_pool', mutates_args=())
def triton_pool(
    query: Tensor, height: int, width: int, rows: int, columns: int, start: int
) -> Tensor:
    """Landmarks [B, H, rows * columns, d] pooled from the patches of the queries [B, H, N, d]."""
    return call(_pool, (query,), (height, width, rows, columns, start))[0]


def _pool(plan, query, height, width, rows, columns, start):
    batch, heads, _, dim = query.shape
    landmarks = plan.result(query.new_empty(batch, heads, rows * columns, dim))
    pool(plan, query, landmarks, (height, width), (rows, columns), start)


@triton_pool.register_fake
def _(query, height, width, rows, columns, start):
    return query.new_empty(*query.shape[:2], rows * columns, query.shape[3])


@library.custom_op('mita_seg::triton_pool_backward', mutates_args=())
def triton_pool_backward(
    grad: Tensor, tokens: int, height: int, width: int, rows: int, columns: int, start: int
) -> Tensor:
    """Gradient of the queries [B, H, tokens, d]."""
    grad_query = grad.new_zeros(*grad.shape[:2], tokens, grad.shape[3])
    call(_pool_backward, (grad, grad_query), (height, width, rows, columns, start))
    return grad_query


def _pool_backward(plan, grad, grad_query, height, width, rows, columns, start):
    grid, num_landmarks = (height, width), (rows, columns)
    pool_backward(plan, grad, grad_query, grid, num_landmarks, start, averaged=False)


@triton_pool_backward.register_fake
def _(grad, tokens, height, width, rows, columns, start):
    return grad.new_empty(*grad.shape[:2], tokens, grad.shape[3])


def _save_grid(ctx, inputs, output):
    query, *ctx.grid = inputs
    ctx.tokens = query.shape[2]


def _differentiate_pool(ctx, grad):
    grad_query = triton_pool_backward(grad, ctx.tokens, *ctx.grid)
    return grad_query, None, None, None, None, None


triton_pool.register_autograd(_differentiate_pool, setup_context=_save_grid)


def _keep_grid(ctx, inputs, output):
    _, _, *ctx.grid = inputs


def _pool_gradients(ctx, grad):  # one is the transpose of the other
    return triton_pool(grad, *ctx.grid), None, None, None, None, None, None


triton_pool_backward.register_autograd(_pool_gradients, setup_context=_keep_grid)
