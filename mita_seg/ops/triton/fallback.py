"""What happens if a kernel can't be launched on a machine.

With the tried versions of Triton every kernel fits every supported GPU. Other versions may need
more memory or registers for the same blocks. And a machine may have no C compiler, which Triton
needs.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError

from .support import warn_once

T = TypeVar('T')


def or_else(run: Callable[[], T], instead: Callable[[], T] | None) -> T:
    """Result of `run`; if the machine lacks what it needs, of `instead`, with a warning."""
    try:
        return run()
    except (OutOfResources, PTXASError, RuntimeError) as error:
        if instead is None or not _lacks_resources(error):
            raise
        reason = ' '.join(str(error).split())
        warn_once(f"backend='auto' uses torch operations where Triton can't launch: {reason}")
    return instead()


def differentiate_in_torch(
    attend: Callable, inputs: Sequence[Tensor | None], grad: Tensor | Sequence[Tensor]
) -> list[Tensor | None]:
    """Gradients of `inputs` through another computation of the output, or outputs; None for None.

    If gradients are recorded, they can be differentiated in turn.
    """
    twice = torch.is_grad_enabled()

    def leaf(tensor: Tensor) -> Tensor:
        if twice and tensor.requires_grad:
            return tensor.view_as(tensor)  # a node of its own: inputs may depend on each other
        return tensor.detach().requires_grad_()

    leaves = [tensor if tensor is None else leaf(tensor) for tensor in inputs]
    with torch.enable_grad():
        output = attend(*leaves)
    given = [leaf for leaf in leaves if leaf is not None]
    gradients = torch.autograd.grad(output, given, grad, allow_unused=True, create_graph=twice)
    remaining = iter(gradients)
    return [None if leaf is None else next(remaining) for leaf in leaves]


def _lacks_resources(error: Exception) -> bool:
    return isinstance(error, OutOfResources | PTXASError) or 'C compiler' in str(error)
