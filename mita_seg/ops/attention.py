"""The public operator: checks its arguments and picks a backend."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import exporting
from .latest import Latest
from .masked import masked_attention
from .options import MiTAOptions, make_options, make_pooling, to_scalars
from .pooling import pool, pool_in_torch
from .reference import reference_attention
from .settled import sign
from .surroundings import in_forward_mode, in_transform, is_exporting
from .tiled import tiled_attention
from .tracing import traced_attention
from .triton.support import unsupported_reason, warn_once
from .validation import check_grid, check_heads, check_pair, check_same_tokens


def mita_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor,
    *,
    topk: int,
    num_routed: int = 1,
    scale: float | None = None,
    landmark_scale: float | None = None,
    shared: bool = True,
    shared_offset: float = 0.0,
    remainder: bool = False,
    backend: str = 'auto',
) -> Tensor:
    """MiTA attention: each query attends to a shared expert and to its routed experts.

    The landmarks L score every key, S = L K^T. The shared expert is the m pairs of L and
    softmax(c S) V; expert j is the `topk` keys of largest S[j] with their values. A query n
    attends, in one softmax, to the shared expert with logits c_L Q_n L^T and, with logits
    c Q_n K_e^T, to the `num_routed` experts whose landmarks have the largest Q_n L^T. Cost
    O(N (m + s k)) instead of O(N^2). The choices of keys and experts carry no gradient; everything
    else does, also to the landmarks. Under autocast the inputs are cast as those of
    scaled_dot_product_attention.

    Source: Wen et al., arXiv 2602.01219, equations 5-12 and Algorithm 1.

    Limits:
        'reference' and 'tiled' work in every transform of torch.func, in forward mode and with
        gradients of gradients (in float32 vmap needs a torch newer than 2.7). 'triton' and 'masked'
        work in grad, vjp, vmap and jacrev. In forward mode (jvp, jacfwd, hessian) they are refused
        and 'auto' takes 'tiled'. Gradients of gradients are refused by 'masked'; 'triton' computes
        them in torch operations, and refuses batched gradients (is_grads_batched=True).

    Args:
        query, key, value: [B, H, N, d], floating point, alike in shape, dtype and device; any
            strides.
        landmarks: Landmark queries [B, H, m, d], see :func:`pool_landmarks`.
        topk: Keys per expert, k, clamped to N. 0: no routed experts (compress-only, which is Agent
            attention).
        num_routed: Experts per query, s, from 1 to m. A key in two of them counts twice.
        scale: c, factor of the logits with keys; d^-1/2 when None.
        landmark_scale: c_L, factor of the logits with landmarks; `scale` when None (the paper). The
            authors' published code amounts to 1/d.
        shared: Whether queries attend to the shared expert. False: route-only; the landmarks then
            get no gradient, unless there is a remainder.
        shared_offset: Added to the logits with landmarks; from -10000 to 10000. A negative number
            makes the shared expert weaker: its exponential is the factor of the landmarks' weights
            before the softmax is normalised. Without routed experts it makes no difference.
        remainder: Each expert gets one more key, which stands for all keys outside of it as its
            landmark sees them. With S_j = c L_j K^T over these keys and P_j = softmax(S_j), its
            logit with a query is logsumexp(S_j) + c (Q_n - L_j) . P_j K, the tangent at the
            landmark, and its value P_j V. Where all queries equal their landmarks, the output is
            that of full attention. Needs ``shared=False``, whose place it takes, ``num_routed=1``
            and topk of at least 1; with topk of N or more no key is left, and nothing is added. The
            landmarks get a gradient. Cost O(N (m + k + 1)). Without the tangent, and with the keys
            of an expert computed again: Vyas, Katharopoulos and Fleuret, "Fast Transformers with
            Clustered Attention", NeurIPS 2020.
        backend: 'reference' (the definition, for tests), 'tiled' (fast in plain torch operations),
            'masked' (scaled_dot_product_attention under a mask, for short maps on a GPU: O(N^2)),
            'triton' (kernels for GPUs from Ampere on, compute capability 8.0: float32, bfloat16 or
            float16, d a multiple of 8 from 16 to 128, m and k at most 1024, positive scales) or
            'auto': 'triton' where it can run on CUDA tensors, else, with one warning that says why,
            'masked' for at most 2560 tokens on a GPU, else 'tiled'. While torch.export or
            torch.onnx.export is at work, all of them are plain torch operations that serve every
            batch and every N.

    Returns:
        [B, H, N, d], dtype of the inputs.

    Raises:
        TypeError: Not floating point tensors of one dtype, or a number of the wrong type.
        ValueError: Shapes or devices that differ, a number out of range, neither a shared nor a
            routed expert, a remainder beside a shared or a second routed expert, or an unknown
            backend.
        NotImplementedError: A known backend that can't run here.
    """
    dtype = _autocast_dtype(query)
    if dtype:
        query, key, value, landmarks = [
            _lower(tensor, dtype) for tensor in (query, key, value, landmarks)
        ]
    numbers = topk, num_routed, scale, landmark_scale, shared, shared_offset, remainder, backend
    signature = sign((query, key, value, landmarks), (), numbers)
    found = _settled.get(signature) if signature else None
    if not found:
        check_heads(query=query, key=key, value=value, landmarks=landmarks)
        check_same_tokens(query=query, key=key, value=value)
        options = make_options(
            query.shape[2:],
            landmarks.shape[2],
            topk=topk,
            num_routed=num_routed,
            scale=scale,
            landmark_scale=landmark_scale,
            shared=shared,
            shared_offset=shared_offset,
            remainder=remainder,
        )
        chosen = _select_backend(backend, query, landmarks.shape[2], options)
        found = chosen, options
        if signature:
            _settled.keep(signature, found)
    return _run(*found, (query, key, value, landmarks), dtype is not None)


def pooled_mita_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grid: Sequence[int],
    num_landmarks: Sequence[int],
    *,
    start: int = 0,
    topk: int,
    num_routed: int = 1,
    scale: float | None = None,
    landmark_scale: float | None = None,
    shared: bool = True,
    shared_offset: float = 0.0,
    remainder: bool = False,
    backend: str = 'auto',
) -> Tensor:
    """:func:`mita_attention` with landmarks from :func:`pool_landmarks`, as one operator.

    Equal to calling the two, quicker and in less memory where the kernels run: the gradient of the
    landmarks is added to the queries' in place.

    Args:
        query, key, value: As in :func:`mita_attention`.
        grid, num_landmarks, start: As in :func:`pool_landmarks`.
        topk, num_routed, scale, landmark_scale, shared, shared_offset, remainder, backend: As in
            :func:`mita_attention`.

    Returns:
        [B, H, N, d], dtype of the inputs.

    Raises:
        TypeError, ValueError, NotImplementedError: As the two functions do.
    """
    dtype = _autocast_dtype(query)
    if dtype:
        query, key, value = [_lower(tensor, dtype) for tensor in (query, key, value)]
    numbers = (
        start,
        topk,
        num_routed,
        scale,
        landmark_scale,
        shared,
        shared_offset,
        remainder,
        backend,
    )
    signature = sign((query, key, value), (grid, num_landmarks), numbers)
    found = _settled_pooled.get(signature) if signature else None
    if not found:
        check_heads(query=query, key=key, value=value)
        check_pair('num_landmarks', num_landmarks)
        check_grid(grid, start, query.shape[2])
        check_same_tokens(query=query, key=key, value=value)
        pooling = make_pooling(grid, num_landmarks, start)
        options = make_options(
            query.shape[2:],
            pooling.num_landmarks,
            topk=topk,
            num_routed=num_routed,
            scale=scale,
            landmark_scale=landmark_scale,
            shared=shared,
            shared_offset=shared_offset,
            remainder=remainder,
        )
        chosen = _select_backend(backend, query, pooling.num_landmarks, options)
        found = chosen, options._replace(pooling=pooling)
        if signature:
            _settled_pooled.keep(signature, found)
    chosen, options = found
    landmarks = None
    if not chosen.pools or torch.jit.is_tracing():
        assert options.pooling is not None
        landmarks, options = pool(query, options.pooling), options._replace(pooling=None)
    return _run(chosen, options, (query, key, value, landmarks), dtype is not None)


def _run(
    chosen: 'Backend',
    options: MiTAOptions,
    tensors: tuple[Tensor, Tensor, Tensor, Tensor | None],
    lowered: bool,
) -> Tensor:
    """Checked arguments through a backend; traced, they are one node, whatever the backend."""
    query, key, value, landmarks = tensors
    if torch.jit.is_tracing() and not is_exporting():
        return traced_attention(query, key, value, landmarks, **to_scalars(options))
    if not lowered:
        return chosen.run(query, key, value, landmarks, options)
    with torch.autocast(query.device.type, enabled=False):
        return chosen.run(query, key, value, landmarks, options)


def _select_backend(
    backend: str, query: Tensor, num_landmarks: int, options: MiTAOptions
) -> 'Backend':
    if backend not in BACKENDS:
        known = ', '.join(map(repr, BACKENDS))
        raise ValueError(f'backend must be one of {known}, got {backend!r}')
    if is_exporting():
        return Backend(exporting.exported_attention)
    if backend == 'masked' and in_forward_mode():
        raise NotImplementedError(
            "backend='masked' has no derivatives in forward mode, 'tiled' has"
        )
    if backend == 'masked' and options.remainder:
        raise NotImplementedError("backend='masked' has no remainder, backend='tiled' has")
    if backend in ('auto', 'triton'):
        scales = options.scale, options.landmark_scale
        reason = unsupported_reason(query, num_landmarks, options.topk, scales)
        if reason and backend == 'triton':
            raise NotImplementedError(f"backend='triton' can't run: {reason}")
        if reason or (backend == 'auto' and not query.is_cuda):
            if query.is_cuda:
                warn_once(f"backend='auto' uses torch operations: triton can't run, as {reason}")
            backend = torch_backend(query, options.remainder)
    return Backend(_attend_to_nothing) if 0 in query.shape[:2] else BACKENDS[backend]


def torch_backend(query: Tensor, remainder: bool = False) -> str:
    """The backend in plain torch operations that 'auto' takes for queries [B, H, N, d].

    'masked' computes all N^2 logits in a few large operations, 'tiled' N (m + s k) of them in many
    small ones. A GPU spends more time on starting those than on the logits, up to some N; a CPU
    does not. 'masked' has no remainder.
    """
    on_cpu = query.device.type == 'cpu'
    if remainder or on_cpu or query.shape[2] > MASKED_TOKENS or in_transform():
        return 'tiled'
    return 'masked'


def _attend_to_nothing(
    query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor, options: MiTAOptions
) -> Tensor:
    """Empty batches, which kernels don't take; all inputs get gradients, empty too."""
    return query + key + value + landmarks.sum(2, keepdim=True)


def _triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor | None,
    options: MiTAOptions,
    instead: Callable | None = None,
) -> Tensor:
    # torch.compile does not look into cached functions.
    attention = _import_kernels() if torch.compiler.is_compiling() else _kernels()
    return attention(query, key, value, landmarks, options, instead)


def _import_kernels() -> Callable:
    from .triton.op import attention  # needs Triton

    return attention


# An import takes longer than a glance, even of what is there already.
_kernels = functools.cache(_import_kernels)


def _triton_or_torch(
    query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor | None, options: MiTAOptions
) -> Tensor:
    """The kernels; torch operations if Triton finds that the machine lacks what they take."""

    def instead(query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor | None) -> Tensor:
        if landmarks is None:
            assert options.pooling is not None
            landmarks = pool_in_torch(query, options.pooling)
        return BACKENDS[torch_backend(query, options.remainder)].run(
            query, key, value, landmarks, options
        )

    return _triton(query, key, value, landmarks, options, instead)


class Backend(NamedTuple):
    """A way to compute MiTA attention.

    Attributes:
        run: (query, key, value, landmarks, options) -> output [B, H, N, d].
        pools: Whether it pools the landmarks itself, from `options.pooling`, and is given None.
    """

    run: Callable
    pools: bool = False


# On one H100 'masked' took 0.85 times as long as 'tiled' at 2,304 tokens and 1.8 times at 4,096.
MASKED_TOKENS = 2560
BACKENDS = {
    'auto': Backend(_triton_or_torch, pools=True),  # where the kernels can run
    'reference': Backend(reference_attention),
    'tiled': Backend(tiled_attention),
    'masked': Backend(masked_attention),
    'triton': Backend(_triton, pools=True),
}

_settled: Latest[tuple[Backend, MiTAOptions]] = Latest()  # by signature
_settled_pooled: Latest[tuple[Backend, MiTAOptions]] = Latest()


def _autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype that autocast would run this tensor's device in; None where it is off."""
    device = tensor.device.type if isinstance(tensor, Tensor) else 'meta'  # refused by the checks
    if device == 'meta' or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def _lower(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast as autocast does for scaled_dot_product_attention: float64 stays as it is."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return tensor  # refused by the checks
    return tensor if tensor.dtype == torch.float64 else tensor.to(dtype)
