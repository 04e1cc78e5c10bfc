"""What the checks of a call found, kept for the next call that is like it.

On short maps the checks take the host longer than some of the kernels. They depend on the shapes,
dtypes and devices of the tensors and on the numbers that are given, and on nothing else in eager
mode. Compiled, traced or exported, sizes may be symbols, and the surroundings matter.
"""

from collections.abc import Sequence
from threading import Lock
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

from .surroundings import in_forward_mode, in_transform, is_exporting
from .triton.support import interpreted

T = TypeVar('T')

_MOST = 1024  # images may have ever new sizes
_PLAIN = frozenset((int, float, bool, str, type(None)))


class Settled(Generic[T]):
    """Findings by signature, the latest ones."""

    def __init__(self) -> None:
        self._found: dict[tuple, T] = {}
        self._changing = Lock()  # two threads may drop the oldest one

    def get(self, signature: tuple | None) -> T | None:
        """What was kept; None if nothing was."""
        return None if signature is None else self._found.get(signature)

    def keep(self, signature: tuple | None, found: T) -> T:
        """`found`, kept unless there is no signature."""
        if signature is not None:
            with self._changing:
                while len(self._found) >= _MOST:
                    del self._found[next(iter(self._found))]  # the oldest
                self._found[signature] = found
        return found


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
