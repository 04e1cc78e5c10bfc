"""What the checks of a call depend on, by which their findings are kept for the next calls.

On short maps the checks take the host longer than some of the kernels. They depend on the shapes,
dtypes and devices of the tensors and on the numbers that are given, and on nothing else in eager
mode. Compiled, traced or exported, sizes may be symbols, and the surroundings matter.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .surroundings import in_forward_mode, in_transform, is_exporting
from .triton.support import interpreted

_PLAIN = frozenset((int, float, bool, str, type(None)))


def sign(tensors: Sequence[Tensor], pairs: Sequence[Any], numbers: Sequence[Any]) -> tuple | None:
    """What the checks of a call depend on; None where that would be more than can be told.

    Args:
        tensors: The tensors that are checked.
        pairs: Arguments that should be two ints.
        numbers: Those that should be a number, a word or None.
    """
    if torch.compiler.is_compiling() or is_exporting() or torch.jit.is_tracing():
        return None
    if in_transform() or in_forward_mode():
        return None
    signature: tuple = ()
    for tensor in tensors:
        if type(tensor) is not Tensor and type(tensor) is not Parameter:
            return None
        signature += (tensor.shape, tensor.dtype, tensor.device)
    for pair in pairs:
        if type(pair) is not tuple:
            return None
        numbers = (*pair, *numbers, len(pair))
    types = tuple(map(type, numbers))  # True, 1 and 1.0 are equal
    if not _PLAIN.issuperset(types):
        return None
    kernels_on_cpu = not tensors[0].is_cuda and interpreted()
    return (*signature, *numbers, types, kernels_on_cpu)
