"""Route-only attention by the kernels, and the remainder that torch operations add to it.

The kernels also return the log of each query's softmax sum. Two softmaxes are merged by these: the
remainder's share is the sigmoid of its logit less the log of the sum.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, library
from torch.nn import Parameter
from torch.nn.functional import embedding

from ..autocast import without_autocast
from ..options import SCHEMA, MiTAOptions, from_scalars, to_scalars
from ..reference import scale_products
from ..remainder import summarize
from ..surroundings import in_transform
from ..tiled import attend_in_tiles
from .backward import mita_backward
from .call_plan import Plan, call
from .fallback import differentiate_in_torch, or_else
from .forward import mita_forward
from .launch import empty_like_query
from .state import empty_state, lay_out, view_state


def _forward(
    query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor, options: MiTAOptions
) -> list[Tensor]:
    """Output, natural logs of the softmax sums, experts, routes; and the state, as bytes."""
    out, state, routes = call(mita_forward, (query, key, value, landmarks), options)
    shape = query.shape[:3]
    views = view_state(state, lay_out(query, landmarks, options))
    lse = views.lse.view(shape) * math.log(2)
    return [out, lse, views.indices.long().unflatten(0, shape[:2]), routes.view(shape), state]


def _backward(
    grad: Tensor,
    grad_lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor,
    out: Tensor,
    state: Tensor,
    options: MiTAOptions,
) -> list[Tensor]:
    """Gradients of query, key and value; the landmarks only route."""
    tensors = grad, query, key, value, landmarks, out, state, grad_lse.float().contiguous()
    return call(_launch_backward, tensors, options)


def _launch_backward(
    plan: Plan,
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor,
    out: Tensor,
    state: Tensor,
    grad_lse: Tensor,
    options: MiTAOptions,
) -> None:
    mita_backward(plan, grad, query, key, value, landmarks, out, state, options, grad_lse)


def _save(ctx: Any, tensors: Sequence[Tensor], options: MiTAOptions, output: Any) -> None:
    out, lse, experts, routes, state = output
    ctx.options = options
    ctx.save_for_backward(*tensors, out, lse, experts, routes, state)
    ctx.mark_non_differentiable(experts, routes, state)
    ctx.set_materialize_grads(False)  # no zeros for these


def _fill_in(grads: Sequence[Tensor | None], out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of output and softmax sums; zeros in place of None."""
    grad, grad_lse = grads[:2]
    return (
        torch.zeros_like(out) if grad is None else grad,
        torch.zeros_like(lse) if grad_lse is None else grad_lse,
    )


# The registered operators. They take plain numbers in place of the options, by keyword.


@library.custom_op(
    'mita_seg::triton_routed_attention',
    mutates_args=(),
    schema=f'(Tensor query, Tensor key, Tensor value, Tensor landmarks, *, {SCHEMA}) -> Tensor[]',
)
def triton_routed_attention(
    query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor, **scalars: Any
) -> list[Tensor]:
    """Route-only attention, of options that have a remainder.

    Returns the output [B, H, N, d], natural logs of the softmax sums [B, H, N], the keys of each
    expert, int64 [B, H, m, k], the expert of each query, int32 [B, H, N], and, as bytes, what else
    the backward pass needs.
    """
    return _forward(query, key, value, landmarks, from_scalars(**scalars))


@library.custom_op(
    'mita_seg::triton_routed_attention_backward',
    mutates_args=(),
    schema='(Tensor grad, Tensor grad_lse, Tensor query, Tensor key, Tensor value, '
    f'Tensor landmarks, Tensor out, Tensor state, *, {SCHEMA}) -> Tensor[]',
)
def triton_routed_attention_backward(
    grad: Tensor,
    grad_lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor,
    out: Tensor,
    state: Tensor,
    **scalars: Any,
) -> list[Tensor]:
    """Gradients of query, key and value."""
    tensors = query, key, value, landmarks, out, state
    return _backward(grad, grad_lse, *tensors, from_scalars(**scalars))


@triton_routed_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor, **scalars: Any) -> Any:
    options = from_scalars(**scalars)
    layout = lay_out(query, landmarks, options)
    precise = torch.float64 if query.dtype == torch.float32 else torch.float32
    return [
        empty_like_query(query),
        query.new_empty(query.shape[:3], dtype=precise),
        query.new_empty(*landmarks.shape[:3], options.topk, dtype=torch.int64),
        query.new_empty(query.shape[:3], dtype=torch.int32),
        empty_state(query, layout),
    ]


@triton_routed_attention_backward.register_fake
def _(
    grad: Tensor,
    grad_lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor,
    out: Tensor,
    state: Tensor,
    **scalars: Any,
) -> Any:
    return [empty_like_query(tensor) for tensor in (query, key, value)]


def _setup(
    ctx: Any, inputs: Sequence[Any], keyword_only_inputs: dict[str, Any], output: Any
) -> None:
    _save(ctx, inputs, from_scalars(**keyword_only_inputs), output)


def _differentiate(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    *tensors, out, lse, _, _, state = ctx.saved_tensors
    both, scalars = _fill_in(grads, out, lse), to_scalars(ctx.options)
    return *triton_routed_attention_backward(*both, *tensors, out, state, **scalars), None


def _refuse(ctx: Any, grads: Any) -> Any:
    raise NotImplementedError(
        "backend='triton' has no gradients of gradients with a remainder under torch.compile, "
        "backend='tiled' has"
    )


triton_routed_attention.register_autograd(_differentiate, setup_context=_setup)
triton_routed_attention_backward.register_autograd(_refuse)


class _RoutedAttention(torch.autograd.Function):
    """The operator without the dispatcher. What has no rule is differentiated in torch operations.

    That is: gradients of gradients, batched gradients, and gradients that a transform of torch.func
    asks for.
    """

    @staticmethod
    def forward(
        ctx: Any,
        can_do_without: bool,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        landmarks: Tensor,
        options: MiTAOptions,
    ) -> tuple[Tensor, ...]:
        output = _forward(query, key, value, landmarks, options)
        _save(ctx, (query, key, value, landmarks), options, output)
        ctx.can_do_without = can_do_without
        return tuple(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        query, key, value, landmarks, out, lse, experts, routes, state = ctx.saved_tensors
        both = _fill_in(grads, out, lse)

        def differentiate() -> Sequence[Tensor | None]:
            return _backward(*both, query, key, value, landmarks, out, state, ctx.options)

        def differentiate_instead() -> Sequence[Tensor | None]:
            def repeat(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
                return attend_in_torch(query, key, value, experts, routes, lse.dtype, ctx.options)

            with without_autocast(out.device.type):
                return differentiate_in_torch(repeat, (query, key, value), both)

        is_batched = any(map(torch._C._functorch.is_legacy_batchedtensor, both))
        if is_batched or torch.is_grad_enabled() or in_transform():
            return None, *differentiate_instead(), None, None
        instead = differentiate_instead if ctx.can_do_without else None
        return None, *or_else(differentiate, instead), None, None


def attend_in_torch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    experts: Tensor,
    routes: Tensor,
    precise: torch.dtype,
    options: MiTAOptions,
) -> tuple[Tensor, Tensor]:
    """Output and natural logs of the softmax sums, of experts and routes that are chosen already.

    experts [B, H, m, k], routes [B, H, N].
    """
    dtype, shape = query.dtype, query.shape
    if dtype == torch.float16:  # as :func:`mita_seg.ops.tiled.tiled_attention` does
        query, key, value = query.float(), key.float(), value.float()
    rows = (each.flatten(0, 1) for each in (query, key, value, experts, routes.unsqueeze(-1)))
    query, key, value, experts, routes = rows
    (partial,) = attend_in_tiles(query, key, value, experts, routes.long(), options.scale)
    lse = partial.row_max + partial.row_sum.log()
    output = partial.output / partial.row_sum
    return output.to(dtype).reshape(shape), lse.to(precise).reshape(shape[:3])


def attention_with_remainder(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor,
    options: MiTAOptions,
    instead: Callable | None = None,
) -> Tensor:
    """The output. The registered operator serves torch.compile and subclasses of tensors alone.

    Args:
        query, key, value: [B, H, N, d].
        landmarks: [B, H, m, d].
        options: What is computed, with a remainder.
        instead: Called with query, key, value and landmarks; computes the output where the machine
            lacks what a kernel takes. None: raise.
    """
    tensors = query, key, value, landmarks
    if type(query) not in (Tensor, Parameter) or torch.compiler.is_compiling():
        routed = triton_routed_attention(*tensors, **to_scalars(options))
        return _add_remainder(tensors, routed, options)

    def attend() -> Tensor:
        if torch.is_grad_enabled():
            routed = _RoutedAttention.apply(instead is not None, *tensors, options)
        else:
            routed = _forward(*tensors, options)
        return _add_remainder(tensors, routed, options)

    return or_else(attend, instead and (lambda: instead(*tensors)))


def _add_remainder(
    tensors: Sequence[Tensor], routed: Sequence[Tensor], options: MiTAOptions
) -> Tensor:
    """One softmax over what the kernels attended to and the remainder, [B, H, N, d]."""
    query, key, value, landmarks = tensors
    out, lse, experts, routes, _ = routed
    scale, num_landmarks = options.scale, landmarks.shape[2]
    logits = scale_products(landmarks, key, scale).float()  # [B, H, m, N]
    remainder = summarize(logits, experts, key, value, landmarks, scale)
    head = torch.arange(query.shape[0] * query.shape[1], device=query.device)
    places = routes.flatten(0, 1) + num_landmarks * head.unsqueeze(1)

    def of_queries(rows: Tensor) -> Tensor:
        """[B, H, m, n] -> [B, H, N, n]; the gradient is a sum in a fixed order."""
        return embedding(places, rows.flatten(0, 2)).view(*query.shape[:3], rows.shape[-1])

    products = (query.float() * of_queries(remainder.key)).sum(-1, keepdim=True)
    logit = of_queries(remainder.bias) + scale * products
    share = torch.sigmoid(logit - lse.unsqueeze(-1)).float()  # [B, H, N, 1]
    return torch.lerp(out.float(), of_queries(remainder.value).float(), share).to(query.dtype)
