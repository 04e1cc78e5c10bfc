"""Cross entropy at the resolution of the labels, without logits of that resolution."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, library

from .chunked_cross_entropy import chunked_cross_entropy, chunked_cross_entropy_backward
from .triton.support import unsupported_loss_reason, warn_once

_BACKENDS = ('auto', 'torch', 'triton')
_REDUCTIONS = ('none', 'sum', 'mean')


class UpsampledLoss(NamedTuple):
    """What :func:`upsampled_cross_entropy` returns.

    Attributes:
        loss: [], or [B, H, W] with ``reduction='none'``; float64 for logits of float64, else
            float32.
        right: bool [B, H, W], whether the class of the largest logit (the first of them, if
            several are largest) is the label. False where the pixel is ignored.
    """

    loss: Tensor
    right: Tensor


def upsampled_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    align_corners: bool = False,
    reduction: str = 'mean',
    backend: str = 'auto',
) -> UpsampledLoss:
    """Cross entropy of logits that are enlarged bilinearly to the size of the labels.

    Equal, up to rounding, to

        enlarged = interpolate(logits.float(), labels.shape[1:], mode='bilinear')
        loss = cross_entropy(enlarged, labels, weight, ignore_index=ignore_index)
        right = enlarged.argmax(1) == labels

    but nothing of the size [B, C, H, W] is ever made: the kernels enlarge, sum up and forget the
    logits pixel by pixel, the torch operations a few rows at a time. Computed in float32 at least,
    also under autocast. The backward pass is deterministic and can't be differentiated again.

    Args:
        logits: [B, C, h, w], floating point, any strides.
        labels: [B, H, W], integers: from 0 to C - 1, or `ignore_index`. Others are refused on a
            CPU; on other devices, where looking would mean waiting, their loss is NaN.
        weight: Weight of each class, [C]; None: all 1.
        ignore_index: The label of pixels without a loss.
        align_corners: As in ``torch.nn.functional.interpolate``.
        reduction: ``'none'``; ``'sum'``; or ``'mean'``, the sum over that of the weights of the
            pixels that are not ignored, and 0, not NaN, if all are.
        backend: ``'triton'`` (kernels for GPUs of compute capability 8.0 and newer: float32,
            bfloat16 or float16, labels no smaller than the logits), ``'torch'``, or ``'auto'``: the
            kernels where they can run on CUDA tensors, else torch operations, with one warning that
            says why if there is a GPU.

    Returns:
        The loss, and which pixels are right.

    Raises:
        TypeError: Not a floating point tensor and one of integers.
        ValueError: Shapes or devices that don't go together, a label that is no class (on a CPU),
            or an unknown reduction or backend.
        NotImplementedError: ``backend='triton'`` that can't run here.
    """
    _check(logits, labels, weight)
    if reduction not in _REDUCTIONS:
        raise ValueError(f'reduction must be one of {_REDUCTIONS}, got {reduction!r}')
    backend = _settle_backend(backend, logits, labels)
    losses, right, _ = _cross_entropy(logits, labels, ignore_index, align_corners, backend)
    if weight is None and reduction != 'mean':
        return UpsampledLoss(losses if reduction == 'none' else losses.sum(), right)
    counts = labels != ignore_index
    if weight is None:
        return UpsampledLoss(losses.sum() / counts.sum().clamp(min=1), right)
    # A label that is no class has a loss of NaN already; it only must not be looked up.
    index = labels.long().where(counts, 0).clamp(0, logits.shape[1] - 1)
    weights = weight.to(losses.dtype)[index].where(counts, 0)  # [B, H, W]
    losses = losses * weights
    if reduction == 'none':
        return UpsampledLoss(losses, right)
    loss, total = losses.sum(), weights.sum()
    if reduction == 'mean':
        loss = loss / total.where(total != 0, 1)
    return UpsampledLoss(loss, right)


def _check(logits: Tensor, labels: Tensor, weight: Tensor | None) -> None:
    for name, tensor in (('logits', logits), ('labels', labels)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f'{name} must be a torch.Tensor, got {type(tensor).__name__}')
    if not logits.is_floating_point():
        raise TypeError(f'logits must be floating point, got {logits.dtype}')
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise TypeError(f'labels must be integers, got {labels.dtype}')
    if logits.ndim != 4 or 0 in logits.shape[1:]:
        raise ValueError(
            'logits must be [B, C, h, w] with no empty dimension but B, got shape '
            f'{tuple(logits.shape)}'
        )
    if labels.ndim != 3 or 0 in labels.shape[1:] or labels.shape[0] != logits.shape[0]:
        raise ValueError(
            f'labels must be [B, H, W] with B={logits.shape[0]} as in logits and no empty '
            f'dimension else, got shape {tuple(labels.shape)}'
        )
    if weight is not None and tuple(weight.shape) != (logits.shape[1],):
        raise ValueError(
            f'weight must be one of each class, shape ({logits.shape[1]},), got '
            f'{tuple(weight.shape)}'
        )
    for name, other in (('labels', labels), ('weight', weight)):
        if other is not None and other.device != logits.device:
            raise ValueError(
                f'{name} must be on the device of logits, {logits.device}, got {other.device}'
            )


def _settle_backend(backend: str, logits: Tensor, labels: Tensor) -> str:
    """'torch'; 'triton', which can run; or 'auto', which should, and may turn out not to."""
    if backend not in _BACKENDS:
        raise ValueError(f'backend must be one of {_BACKENDS}, got {backend!r}')
    if backend == 'torch' or (backend == 'auto' and not logits.is_cuda):
        return 'torch'
    reason = unsupported_loss_reason(logits, labels.shape[1:])
    if not reason:
        return backend if logits.shape[0] else 'torch'
    if backend == 'triton':
        raise NotImplementedError(f"backend='triton' can't run: {reason}")
    warn_once(f"backend='auto' uses torch operations: triton can't run, as {reason}")
    return 'torch'


@library.custom_op('mita_seg::upsampled_cross_entropy', mutates_args=())
def _cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int, align_corners: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, bool which pixels are right, and log-sum-exp of their logits: [B, H, W] each."""
    if labels.device.type == 'cpu':
        _check_classes(labels, logits.shape[1], ignore_index)

    def in_torch() -> tuple[Tensor, Tensor, Tensor]:
        return chunked_cross_entropy(logits, labels, ignore_index, align_corners)

    if backend == 'torch':
        return in_torch()
    from .triton.fallback import or_else  # these need Triton
    from .triton.upsampled_cross_entropy import cross_entropy

    return or_else(
        lambda: cross_entropy(logits, labels, ignore_index, align_corners),
        in_torch if backend == 'auto' else None,
    )


@_cross_entropy.register_fake
def _(
    logits: Tensor, labels: Tensor, ignore_index: int, align_corners: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    losses, lse = (logits.new_empty(labels.shape, dtype=dtype) for _ in range(2))
    return losses, logits.new_empty(labels.shape, dtype=torch.bool), lse


@library.custom_op('mita_seg::upsampled_cross_entropy_backward', mutates_args=())
def _cross_entropy_backward(
    grad: Tensor,
    logits: Tensor,
    labels: Tensor,
    lse: Tensor,
    ignore_index: int,
    align_corners: bool,
    backend: str,
) -> Tensor:
    """Gradient of the logits, dense."""
    inputs = grad, logits, labels, lse, ignore_index, align_corners

    def in_torch() -> Tensor:
        return chunked_cross_entropy_backward(*inputs)

    if backend == 'torch':
        return in_torch()
    from .triton.fallback import or_else  # these need Triton
    from .triton.upsampled_cross_entropy import cross_entropy_backward

    return or_else(lambda: cross_entropy_backward(*inputs), in_torch if backend == 'auto' else None)


@_cross_entropy_backward.register_fake
def _(
    grad: Tensor,
    logits: Tensor,
    labels: Tensor,
    lse: Tensor,
    ignore_index: int,
    align_corners: bool,
    backend: str,
) -> Tensor:
    return logits.new_empty(logits.shape)


def _save(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    logits, labels, *ctx.options = inputs
    _, right, lse = output
    ctx.save_for_backward(logits, labels, lse)
    ctx.mark_non_differentiable(right, lse)
    ctx.set_materialize_grads(False)  # no zeros for them


def _differentiate(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None, None
    return _cross_entropy_backward(grad, *ctx.saved_tensors, *ctx.options), None, None, None, None


_cross_entropy.register_autograd(_differentiate, setup_context=_save)


def _check_classes(labels: Tensor, num_classes: int, ignore_index: int) -> None:
    labels = labels.long()
    unknown = labels[(labels != ignore_index) & ((labels < 0) | (labels >= num_classes))]
    if unknown.numel():
        raise ValueError(
            f'labels must be from 0 to {num_classes - 1}, or ignore_index={ignore_index}, got '
            f'{unknown[0].item()}'
        )
