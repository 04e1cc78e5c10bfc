"""The public operator: checks its arguments and picks a backend."""

from contextlib import nullcontext

import torch
from torch import Tensor

from . import reference, tiled
from .tracing import traced_attention
from .triton.support import why_not
from .validation import check_experts, check_heads, check_same_tokens, check_scale


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

    Args:
        query, key, value: [B, H, N, d], floating point, alike in shape, dtype and device; any
            strides.
        landmarks: Landmark queries [B, H, m, d], see :func:`pool_landmarks`.
        topk: Keys an expert, k, clamped to N. 0: no routed experts (compress-only, which is Agent
            attention).
        num_routed: Experts a query, s, from 1 to m. A key held by two of them counts twice.
        scale: c, factor of the logits with keys; d^-1/2 when None.
        landmark_scale: c_L, factor of the logits with landmarks; `scale` when None (the paper). The
            authors' published code amounts to 1/d.
        shared: Whether queries attend to the shared expert. False: route-only; the landmarks then
            get no gradient.
        backend: 'reference' (the definition, for tests), 'tiled' (fast in plain torch operations),
            'triton' (kernels for Hopper GPUs and newer: float32, bfloat16 or float16, d a multiple
            of 8 from 16 to 128, at most 256 landmarks and keys an expert) or 'auto': 'triton' where
            it can run on CUDA tensors, else 'tiled'.

    Returns:
        [B, H, N, d], dtype of the inputs.

    Raises:
        TypeError: Not floating point tensors of one dtype, or a number of the wrong type.
        ValueError: Shapes or devices that differ, a number out of range, neither a shared nor a
            routed expert, or an unknown backend.
        NotImplementedError: A known backend that can't run here.
    """
    lower_dtype = _autocast_dtype(query)
    if lower_dtype:
        query, key, value, landmarks = (
            _lower(tensor, lower_dtype) for tensor in (query, key, value, landmarks)
        )
    check_heads(query=query, key=key, value=value, landmarks=landmarks)
    check_same_tokens(query=query, key=key, value=value)
    check_experts(topk, num_routed, landmarks.shape[2], shared)
    scale = query.shape[-1] ** -0.5 if scale is None else check_scale('scale', scale)
    landmark_scale = (
        scale if landmark_scale is None else check_scale('landmark_scale', landmark_scale)
    )
    topk = min(topk, key.shape[2])
    run = _select_backend(backend, query, landmarks.shape[2], topk)
    if torch.jit.is_tracing():  # one node in the graph, whatever the backend
        return traced_attention(
            query, key, value, landmarks, topk, num_routed, scale, landmark_scale, shared
        )
    with torch.autocast(query.device.type, enabled=False) if lower_dtype else nullcontext():
        return run(
            query,
            key,
            value,
            landmarks,
            topk=topk,
            num_routed=num_routed,
            scale=scale,
            landmark_scale=landmark_scale,
            shared=shared,
        )


def _select_backend(backend: str, query: Tensor, num_landmarks: int, topk: int):
    if backend not in ('auto', *BACKENDS):
        known = ', '.join(map(repr, ('auto', *BACKENDS)))
        raise ValueError(f'backend must be one of {known}, got {backend!r}')
    if backend == 'auto':
        kernels = query.is_cuda and why_not(query, num_landmarks, topk) is None
        backend = 'triton' if kernels else 'tiled'
    elif backend == 'triton':
        reason = why_not(query, num_landmarks, topk)
        if reason:
            raise NotImplementedError(f"backend='triton' can't run: {reason}")
    return BACKENDS[backend]


def _triton(query, key, value, landmarks, **options) -> Tensor:
    from .triton.op import triton_attention  # needs Triton

    return triton_attention(query, key, value, landmarks, **options)[0]


BACKENDS = {
    'reference': reference.mita_attention,
    'tiled': tiled.mita_attention,
    'triton': _triton,
}


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
