"""The kernels as operators with gradients, for eager mode, torch.compile and autograd alike."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, library
from torch.nn import Parameter

from ..autocast import without_autocast
from ..options import SCHEMA, MiTAOptions, Pooling, from_scalars, to_scalars
from ..surroundings import fold, in_transform, unfold
from .backward import mita_backward
from .call_plan import Plan, call
from .cluster_landmarks import cluster, cluster_backward, empty_cluster_gradients, empty_clusters
from .derivatives import differentiate_gradients
from .fallback import differentiate_in_torch, or_else
from .forward import mita_forward
from .launch import empty_like_query
from .pool_landmarks import pool, pool_backward
from .state import empty_state, lay_out


def _forward(
    query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor | None, options: MiTAOptions
) -> list[Tensor]:
    """The output, and the state: as bytes, what else the backward pass needs."""
    return call(mita_forward, (query, key, value, landmarks), options)


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor | None,
    out: Tensor,
    state: Tensor,
    options: MiTAOptions,
) -> list[Tensor]:
    """Gradients of query, key, value and, where they were given, landmarks."""
    gradients = call(mita_backward, (grad, query, key, value, landmarks, out, state), options)
    if landmarks is not None and not options.summarizes:  # only routing uses them
        gradients.append(torch.zeros_like(landmarks))
    return gradients


def _save(ctx: Any, tensors: Sequence[Tensor | None], options: MiTAOptions, output: Any) -> None:
    out, state = output
    ctx.options = options
    ctx.save_for_backward(*tensors, out, state)
    ctx.mark_non_differentiable(state)
    ctx.set_materialize_grads(False)  # no zeros for the state


def _differentiate(gradients: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradients that a backward pass returned, None for landmarks that were not given."""
    grad_query, grad_key, grad_value, *grad_landmarks = gradients
    return grad_query, grad_key, grad_value, grad_landmarks[0] if grad_landmarks else None


def _save_for_gradients(ctx: Any, tensors: Sequence[Tensor | None], options: MiTAOptions) -> None:
    grad, query, key, value, landmarks, *_ = tensors
    ctx.options = options
    ctx.save_for_backward(grad, query, key, value, landmarks)


def _differentiate_gradients(ctx: Any, grads: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Gradients of the tensors that `_backward` takes; out and state are no inputs of their own."""
    grad, *inputs = ctx.saved_tensors
    return *differentiate_gradients(grads, grad, inputs, ctx.options), None, None


# The registered operators. They take plain numbers in place of the options, by keyword.


@library.custom_op(
    'mita_seg::triton_attention',
    mutates_args=(),
    schema=f'(Tensor query, Tensor key, Tensor value, Tensor? landmarks, *, {SCHEMA}) -> Tensor[]',
)
def triton_attention(
    query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor | None, **scalars: Any
) -> list[Tensor]:
    """MiTA attention with landmarks [B, H, m, d], or with ones pooled from the queries.

    Returns the output and, as bytes, what else the backward pass needs.
    """
    return _forward(query, key, value, landmarks, from_scalars(**scalars))


@library.custom_op(
    'mita_seg::triton_attention_backward',
    mutates_args=(),
    schema='(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor? landmarks, Tensor out, '
    f'Tensor state, *, {SCHEMA}) -> Tensor[]',
)
def triton_attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor | None,
    out: Tensor,
    state: Tensor,
    **scalars: Any,
) -> list[Tensor]:
    """Gradients of query, key, value and, where they were given, landmarks."""
    return _backward(grad, query, key, value, landmarks, out, state, from_scalars(**scalars))


@triton_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor | None, **scalars: Any) -> Any:
    layout = lay_out(query, landmarks, from_scalars(**scalars))
    return [empty_like_query(query), empty_state(query, layout)]


@triton_attention_backward.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor | None,
    out: Tensor,
    state: Tensor,
    **scalars: Any,
) -> Any:
    gradients = [empty_like_query(tensor) for tensor in (query, key, value)]
    if landmarks is not None:
        gradients.append(landmarks.new_empty(landmarks.shape))
    return gradients


def _setup(
    ctx: Any, inputs: Sequence[Any], keyword_only_inputs: dict[str, Any], output: Any
) -> None:
    _save(ctx, inputs, from_scalars(**keyword_only_inputs), output)


def _setup_gradients(
    ctx: Any, inputs: Sequence[Any], keyword_only_inputs: dict[str, Any], output: Any
) -> None:
    _save_for_gradients(ctx, inputs, from_scalars(**keyword_only_inputs))


triton_attention.register_autograd(
    lambda ctx, grads: _differentiate(
        triton_attention_backward(grads[0], *ctx.saved_tensors, **to_scalars(ctx.options))
    ),
    setup_context=_setup,
)
triton_attention_backward.register_autograd(
    _differentiate_gradients, setup_context=_setup_gradients
)


class _Attention(torch.autograd.Function):
    """The operator without the dispatcher, which takes longer than the kernels on small maps.

    It returns the output alone: for each tensor that it returned, autograd would do more.
    """

    @staticmethod
    def forward(
        ctx: Any,
        instead: Callable | None,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        landmarks: Tensor | None,
        options: MiTAOptions,
    ) -> Tensor:
        out, state = _forward(query, key, value, landmarks, options)
        ctx.save_for_backward(query, key, value, landmarks, out, state)
        ctx.instead, ctx.options = instead, options
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch._C._functorch.is_legacy_batchedtensor(grad):
            raise NotImplementedError(
                "backend='triton' has no batched gradients (is_grads_batched=True, jacobian with "
                "vectorize=True), backend='tiled' has; torch.func.jacrev takes either"
            )
        watched = torch.is_grad_enabled() or in_transform()

        def differentiate() -> tuple[Tensor | None, ...]:
            backward = _Gradients.apply if watched else _backward
            arguments = grad, *ctx.saved_tensors, ctx.options
            return _differentiate(backward(*arguments))

        def differentiate_instead() -> list[Tensor | None]:
            return differentiate_in_torch(ctx.instead, ctx.saved_tensors[:4], grad)

        return None, *or_else(differentiate, ctx.instead and differentiate_instead), None


class _Transformed(torch.autograd.Function):
    """The operator under torch.func."""

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor | None, options: MiTAOptions
    ) -> tuple[Tensor, ...]:
        return tuple(_forward(query, key, value, landmarks, options))

    @staticmethod
    def setup_context(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        *tensors, options = inputs
        _save(ctx, tensors, options, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients = _Gradients.apply(grads[0], *ctx.saved_tensors, ctx.options)
        return *_differentiate(gradients), None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Sequence[int | None],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        landmarks: Tensor | None,
        options: MiTAOptions,
    ) -> tuple:
        tensors = fold(info.batch_size, in_dims[:4], (query, key, value, landmarks))
        out, state = _Transformed.apply(*tensors, options)
        # The state is that of the whole batch, and goes to the backward pass as it is.
        return (unfold(info.batch_size, out), state), (0, None)


class _Gradients(torch.autograd.Function):
    """The backward pass under torch.func, and where its gradients may get gradients."""

    @staticmethod
    def forward(
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        landmarks: Tensor | None,
        out: Tensor,
        state: Tensor,
        options: MiTAOptions,
    ) -> tuple[Tensor, ...]:
        return tuple(_backward(grad, query, key, value, landmarks, out, state, options))

    @staticmethod
    def setup_context(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        *tensors, options = inputs
        _save_for_gradients(ctx, tensors, options)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *_differentiate_gradients(ctx, grads), None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Sequence[int | None],
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        landmarks: Tensor | None,
        out: Tensor,
        state: Tensor,
        options: MiTAOptions,
    ) -> tuple:
        size, inputs = info.batch_size, (query, key, value, landmarks, out)
        grad_dim, out_dim = in_dims[0], in_dims[5]
        if out_dim is None:  # one forward pass, many gradients of its output
            each_grad = [grad] * size if grad_dim is None else grad.unbind(grad_dim)
            results = [_Gradients.apply(each, *inputs, state, options) for each in each_grad]
            gradients = [torch.stack(each) for each in zip(*results, strict=True)]
            return tuple(gradients), (0,) * len(gradients)
        tensors = fold(size, in_dims[:6], (grad, *inputs))
        gradients = _Gradients.apply(*tensors, state, options)
        return tuple(unfold(size, each) for each in gradients), (0,) * len(gradients)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor | None,
    options: MiTAOptions,
    instead: Callable | None = None,
) -> Tensor:
    """The output. The registered operator serves torch.compile and subclasses of tensors alone.

    Args:
        query, key, value: [B, H, N, d].
        landmarks: [B, H, m, d]; None where `options.pooling` says how to pool them.
        options: What is computed.
        instead: Called with query, key, value and landmarks; computes the output where the machine
            lacks what a kernel takes. None: raise.
    """
    tensors = query, key, value, landmarks
    if type(query) not in (Tensor, Parameter) or torch.compiler.is_compiling():
        return triton_attention(*tensors, **to_scalars(options))[0]

    def attend() -> Tensor:
        if in_transform():
            return _Transformed.apply(*tensors, options)[0]
        if torch.is_grad_enabled():
            return _Attention.apply(instead, *tensors, options)
        return _forward(*tensors, options)[0]

    return or_else(attend, instead and (lambda: instead(*tensors)))


@library.custom_op('mita_seg::triton_pool', mutates_args=())
def triton_pool(query: Tensor, pooling: Sequence[int]) -> Tensor:
    """Landmarks [B, H, m, d] pooled from the patches of the queries [B, H, N, d].

    `pooling` has the numbers of a Pooling in their order.
    """
    return call(_pool, (query,), Pooling(*pooling))[0]


def _pool(plan: Plan, query: Tensor, pooling: Pooling) -> None:
    batch, heads, _, dim = query.shape
    landmarks = plan.result(query.new_empty(batch, heads, pooling.num_landmarks, dim))
    pool(plan, query, landmarks, pooling)


@triton_pool.register_fake
def _(query: Tensor, pooling: Sequence[int]) -> Any:
    return query.new_empty(*query.shape[:2], Pooling(*pooling).num_landmarks, query.shape[3])


@library.custom_op('mita_seg::triton_pool_backward', mutates_args=())
def triton_pool_backward(grad: Tensor, tokens: int, pooling: Sequence[int]) -> Tensor:
    """Gradient of the queries [B, H, tokens, d]."""
    grad_query = grad.new_zeros(*grad.shape[:2], tokens, grad.shape[3])
    call(_pool_backward, (grad, grad_query), Pooling(*pooling))
    return grad_query


def _pool_backward(plan: Plan, grad: Tensor, grad_query: Tensor, pooling: Pooling) -> None:
    pool_backward(plan, grad, grad_query, pooling, averaged=False)


@triton_pool_backward.register_fake
def _(grad: Tensor, tokens: int, pooling: Sequence[int]) -> Any:
    return grad.new_empty(*grad.shape[:2], tokens, grad.shape[3])


def _save_pooling(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    query, ctx.pooling = inputs
    ctx.tokens = query.shape[2]


def _differentiate_pool(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return triton_pool_backward(grad, ctx.tokens, ctx.pooling), None


triton_pool.register_autograd(_differentiate_pool, setup_context=_save_pooling)


def _keep_pooling(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
    _, _, ctx.pooling = inputs


def _differentiate_pool_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    """The pooling and its gradient are transposes of each other."""
    return triton_pool(grad, ctx.pooling), None, None


triton_pool_backward.register_autograd(_differentiate_pool_backward, setup_context=_keep_pooling)


@library.custom_op(
    'mita_seg::triton_cluster',
    mutates_args=(),
    schema='(Tensor query, Tensor landmarks, SymInt steps) -> Tensor[]',
)
def triton_cluster(query: Tensor, landmarks: Tensor, steps: int) -> list[Tensor]:
    """Landmarks [B, H, m, d] moved by k-means of the queries [B, H, N, d].

    Returns them and what else the backward pass needs. Without steps the queries get no gradient.
    """
    return call(cluster, (query, landmarks), steps)


@triton_cluster.register_fake
def _(query: Tensor, landmarks: Tensor, steps: int) -> Any:
    return empty_clusters(query, landmarks, steps)


@library.custom_op(
    'mita_seg::triton_cluster_backward',
    mutates_args=(),
    schema='(Tensor grad, Tensor query, Tensor moved, Tensor nearest, Tensor counts) -> Tensor[]',
)
def triton_cluster_backward(
    grad: Tensor, query: Tensor, moved: Tensor, nearest: Tensor, counts: Tensor
) -> list[Tensor]:
    """Gradients of the landmarks and, unless there were no steps, the queries."""
    return call(cluster_backward, (grad, query, moved, nearest, counts), None)


@triton_cluster_backward.register_fake
def _(grad: Tensor, query: Tensor, moved: Tensor, nearest: Tensor, counts: Tensor) -> Any:
    return empty_cluster_gradients(grad, query, counts.shape[1])


def _save_clusters(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    query, *_ = inputs
    _, *state = output
    ctx.save_for_backward(query, *state)
    ctx.mark_non_differentiable(*state)
    ctx.set_materialize_grads(False)  # no zeros for the state


def _differentiate_clusters(gradients: Sequence[Tensor]) -> tuple[Tensor | None, Tensor]:
    """The gradients that a backward pass returned, None for queries without steps."""
    grad_landmarks, *grad_query = gradients
    return grad_query[0] if grad_query else None, grad_landmarks


triton_cluster.register_autograd(
    lambda ctx, grads: (
        *_differentiate_clusters(triton_cluster_backward(grads[0], *ctx.saved_tensors)),
        None,
    ),
    setup_context=_save_clusters,
)


class _Clustering(torch.autograd.Function):
    """Landmarks moved by k-means. What has no rule here is differentiated in torch operations."""

    @staticmethod
    def forward(
        ctx: Any, in_torch: Callable, query: Tensor, landmarks: Tensor, steps: int
    ) -> Tensor:
        out, *state = call(cluster, (query, landmarks), steps)
        ctx.in_torch, ctx.steps = in_torch, steps
        ctx.save_for_backward(query, landmarks, *state)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, landmarks, *state = ctx.saved_tensors

        def differentiate() -> tuple[Tensor | None, ...]:
            return _differentiate_clusters(call(cluster_backward, (grad, query, *state), None))

        def differentiate_instead() -> tuple[Tensor | None, ...]:
            def repeat(query: Tensor, landmarks: Tensor) -> Tensor:
                return ctx.in_torch(query, landmarks, ctx.steps)

            with without_autocast(grad.device.type):
                gradients = differentiate_in_torch(repeat, (query, landmarks), grad)
            return gradients[0], gradients[1]

        is_batched = torch._C._functorch.is_legacy_batchedtensor(grad)
        if is_batched or torch.is_grad_enabled() or in_transform():
            return None, *differentiate_instead(), None
        return None, *or_else(differentiate, differentiate_instead), None


def clustering(query: Tensor, landmarks: Tensor, steps: int, in_torch: Callable) -> Tensor:
    """Landmarks moved by k-means. The registered operator serves torch.compile alone.

    Args:
        query: [B, H, N, d].
        landmarks: [B, H, m, d].
        steps: Steps of k-means.
        in_torch: The same of query, landmarks and steps in torch operations: for gradients of
            gradients, and where the machine lacks what a kernel takes.
    """
    if not steps:
        query = query.detach()  # it has no gradient, and so no place in the graph
    if torch.compiler.is_compiling():
        return triton_cluster(query, landmarks, steps)[0]

    def run() -> Tensor:
        if not torch.is_grad_enabled():
            return call(cluster, (query, landmarks), steps)[0]
        return _Clustering.apply(in_torch, query, landmarks, steps)

    return or_else(run, lambda: in_torch(query, landmarks, steps))
