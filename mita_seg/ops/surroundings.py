"""What surrounds a call: an export, transforms of torch.func, derivatives in forward mode."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

F = TypeVar('F', bound=Callable)


def constant_while_compiling(function: F) -> F:
    """torch.compile calls the function while it traces, and keeps the result.

    As torch.compiler.assume_constant_result, but without importing half of torch.compile.
    """
    vars(function)['_dynamo_marked_constant'] = True
    return function


@constant_while_compiling  # torch.compile guards the transforms around what it traces
def in_transform() -> bool:
    """Whether a transform of torch.func (grad, vmap, jvp and their kin) is running."""
    return torch._C._are_functorch_transforms_active()


def in_forward_mode() -> bool:
    """Whether tensors may carry tangents: in torch.func.jvp and torch.autograd.forward_ad."""
    return forward_ad._current_level >= 0


def is_exporting() -> bool:
    """Whether torch.export or torch.onnx.export, by either of its exporters, is at work."""
    # The flag itself: before torch 2.13 the function is True in all that torch.compile traces.
    if torch.compiler._is_exporting_flag:
        return True
    return torch.jit.is_tracing() and torch.onnx.is_in_onnx_export()


def fold(size: int, in_dims: Sequence[int | None], tensors: Sequence) -> list[Tensor | None]:
    """Tensors of a rule for vmap, its dimension put into the first one, which is that of a batch.

    Args:
        size: Of the dimension that vmap maps over.
        in_dims: Which one that is in each tensor; None where it is in none.
        tensors: [B, ...], and `size` where in_dims says; or None.

    Returns:
        [size * B, ...] each, or None.
    """

    def fold_one(dim: int | None, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        mapped = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        return mapped.flatten(0, 1)

    return list(map(fold_one, in_dims, tensors))


def unfold(size: int, tensor: Tensor) -> Tensor:
    """[size * B, ...] -> [size, B, ...]"""
    return tensor.unflatten(0, (size, -1))
