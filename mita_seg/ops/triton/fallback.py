"""What happens where a machine lacks what a kernel takes, in spite of the tables of blocks.

That a call fits is known before, from shapes and GPU, for the versions of Triton that were tried.
Others may need more memory or registers for the same blocks, and a machine may have no C compiler,
which Triton's launches need.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError

from .support import warn_once


def or_else(run: Callable, instead: Callable | None):
    """Result of `run`, or of `instead`, with a warning, where resources are wanting."""
    try:
        return run()
    except (OutOfResources, PTXASError, RuntimeError) as error:
        if instead is None or not _lacks_resources(error):
            raise
        reason = ' '.join(str(error).split())
        warn_once(f"backend='auto' uses torch operations where Triton can't launch: {reason}")
    return instead()


def differentiate_in_torch(
    attend: Callable, inputs: Sequence[Tensor | None], grad: Tensor
) -> list[Tensor | None]:
    """Gradients of `inputs` through another computation of the output; None of None.

    Where gradients are recorded they can be differentiated in turn.
    """
    twice = torch.is_grad_enabled()

    def leaf(tensor: Tensor) -> Tensor:
        return tensor if twice and tensor.requires_grad else tensor.detach().requires_grad_()

    leaves = [tensor if tensor is None else leaf(tensor) for tensor in inputs]
    with torch.enable_grad():
        output = attend(*leaves)
    given = [leaf for leaf in leaves if leaf is not None]
    gradients = torch.autograd.grad(output, given, grad, allow_unused=True, create_graph=twice)
    gradients = iter(gradients)
    return [None if leaf is None else next(gradients) for leaf in leaves]


def _lacks_resources(error: Exception) -> bool:
    return isinstance(error, OutOfResources | PTXASError) or 'C compiler' in str(error)
