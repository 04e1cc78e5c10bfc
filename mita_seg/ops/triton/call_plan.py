"""Calls that are recorded once and repeated with other tensors.

Triton's launcher inspects every argument of every launch, and each call chooses block sizes and
makes a dozen tensors. On small maps that takes longer than the kernels. All of it depends only on
shapes, strides, alignment and options. So the first call of a signature is recorded. The next ones
repeat its launches with the addresses of their own tensors, in one piece of scratch memory.
"""

from collections.abc import Callable, Hashable
from operator import itemgetter
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.runtime import driver

from ..latest import Latest
from .gpu import gpu_of
from .launch import cdiv

_ALIGNMENT = 256  # bytes, as the allocator's own
_SCRATCH = -1
# Versions whose launcher was tried: its arguments are no public interface, and change. With other
# versions every call goes through Triton's own launches.
_KNOWN_TRITON = ('3.6', '3.7')


class _Launch(NamedTuple):
    run: Callable
    grid: tuple[int, ...]  # three numbers
    kernel: tuple  # function and metadata
    pick: Callable  # of all addresses that a recording takes: those of this launch's tensors
    rest: tuple  # numbers and constants


class Plan:
    """A call while it is recorded: its tensors, results, scratch memory and launches.

    Args:
        tensors: The arguments, None for one that is left out.
    """

    def __init__(self, tensors: tuple[Tensor | None, ...]) -> None:
        # New objects: one tensor given twice is two arguments, which may differ next time.
        self.tensors = [tensor if tensor is None else tensor.detach() for tensor in tensors]
        self._device = _first(tensors).device
        self.gpu = gpu_of(self._device)
        self.results: list[Tensor] = []
        self._scratch: list[tuple[Tensor, int]] = []
        self._scratch_bytes = 0
        self._launches: list[_Launch] = []
        self._places: dict[tuple[int, int], int] = {}  # numbered: an allocation, and a byte in it
        self._repeatable = knows_launcher()

    def result(self, tensor: Tensor) -> Tensor:
        """Add a new tensor, dense and not written yet, to the results."""
        self.results.append(tensor)
        return tensor

    def scratch(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Memory for the launches of this call alone."""
        tensor = torch.empty(shape, dtype=dtype, device=self._device)
        self._scratch.append((tensor, self._scratch_bytes))
        self._scratch_bytes += aligned(tensor.nbytes)
        return tensor

    def launch(self, kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        """kernel[grid](*args, **options): tensors, then numbers; `options` are constants."""
        compiled = kernel[grid](*args, **options)
        if compiled is None:  # the interpreter compiles nothing
            self._repeatable = False
        if not self._repeatable:
            return
        places = [self._place(arg) for arg in args if isinstance(arg, Tensor)]
        numbers = [self._places.setdefault(place, len(self._places)) for place in places]
        constants = [options[name] for name in kernel.arg_names[len(args) :]]
        self._launches.append(
            _Launch(
                compiled.run,
                (grid + (1, 1))[:3],
                (compiled.function, compiled.packed_metadata, None, None, None),
                _picker(numbers),
                (*args[len(places) :], *constants),
            )
        )

    def _place(self, tensor: Tensor) -> tuple[int, int]:
        """The allocation that an argument is in, and the byte there."""
        if not tensor.numel():  # left out, never read
            return 0, 0
        for index, given in enumerate(self.tensors):
            if tensor is given:
                return index, 0
        pieces = [(result, len(self.tensors) + i, 0) for i, result in enumerate(self.results)]
        pieces += [(piece, _SCRATCH, offset) for piece, offset in self._scratch]
        pieces += [  # parts of which are taken; expanded tensors would seem larger than they are
            (given, index, 0)
            for index, given in enumerate(self.tensors)
            if given is not None and given.is_contiguous()
        ]
        for piece, index, offset in pieces:
            distance = tensor.data_ptr() - piece.data_ptr()
            if tensor is piece or 0 <= distance < piece.nbytes:
                return index, offset + distance
        raise AssertionError('a launch takes a tensor that its plan does not know')

    def recording(self) -> '_Recording | None':
        """The finished recording; None if it can't be repeated."""
        if not self._repeatable:
            return None
        layouts = [(each.shape, each.stride(), each.dtype) for each in self.results]
        return _Recording(layouts, self._scratch_bytes, list(self._places), self._launches)


class _Recording(NamedTuple):
    results: list[tuple]  # shape, strides and dtype
    scratch_bytes: int
    places: list[tuple[int, int]]  # that launches take: an allocation, and a byte in it
    launches: list[_Launch]

    def repeat(self, tensors: tuple[Tensor | None, ...]) -> list[Tensor]:
        """Results of the call with other tensors of the same signature."""
        device = _first(tensors).device
        results = [
            torch.empty_strided(shape, stride, dtype=dtype, device=device)
            for shape, stride, dtype in self.results
        ]
        scratch = torch.empty(self.scratch_bytes, dtype=torch.uint8, device=device)
        starts = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        starts += [result.data_ptr() for result in results]
        starts.append(scratch.data_ptr())
        addresses = [starts[index] + offset for index, offset in self.places]
        stream = driver.active.get_current_stream(device.index)
        for run, grid, kernel, pick, rest in self.launches:
            run(*grid, stream, *kernel, *pick(addresses), *rest)
        return results


def _picker(numbers: list[int]) -> Callable:
    """Takes the items of these numbers out of a list."""
    if len(numbers) > 1:
        return itemgetter(*numbers)  # several times quicker, but alone an item comes bare
    return lambda items: [items[number] for number in numbers]


_recordings: Latest[_Recording] = Latest()  # by signature


def call(body: Callable, tensors: tuple[Tensor | None, ...], options: Hashable) -> list[Tensor]:
    """Results of body(plan, *tensors, options), or of its launches as recorded before.

    The launches of `body` must depend only on shapes, strides, dtypes, device and alignment of the
    tensors and on the options. It must do nothing else to device memory.
    """
    first = _first(tensors)
    device = first.get_device()
    if first.is_cuda and device != torch.cuda.current_device():  # where Triton launches
        with torch.cuda.device(device):
            return call(body, tensors, options)
    signature = (
        body,
        device,
        options,
        *[
            tensor if tensor is None
            else (tensor.dtype, tensor.shape, tensor.stride(), tensor.data_ptr() % 16)
            for tensor in tensors
        ],
    )  # fmt: skip
    known = _recordings.get(signature)
    if known and not _watched():
        return known.repeat(tensors)
    plan = Plan(tensors)
    body(plan, *plan.tensors, options)
    recording = plan.recording()
    if recording:
        _recordings.keep(signature, recording)
    return plan.results


def _first(tensors: tuple[Tensor | None, ...]) -> Tensor:
    """The first argument, which is never left out."""
    assert tensors[0] is not None
    return tensors[0]


def knows_launcher() -> bool:
    """Whether the launcher of the Triton that is installed was tried."""
    return '.'.join(triton.__version__.split('.')[:2]) in _KNOWN_TRITON


def _watched() -> bool:
    """Whether someone, such as a profiler, wants to know of every launch."""
    hook = triton.knobs.runtime.launch_enter_hook
    return bool(getattr(hook, 'calls', hook))


def aligned(num_bytes: int) -> int:
    """The least multiple of the alignment that is at least `num_bytes`."""
    return cdiv(num_bytes, _ALIGNMENT) * _ALIGNMENT
