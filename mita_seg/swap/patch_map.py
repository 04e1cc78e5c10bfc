"""The sizes of the patch maps that pass through a model, as far as calls under way need them."""

import itertools
import threading
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._guards import CompileContext
from torch.autograd.graph import Node

from .graph_marks import mark, metadata_of, running_node
from .hooks import Hook

M = TypeVar('M', bound='PatchMap')

Grid = tuple[int, int]

_LOCK = threading.Lock()
_NUMBERS = itertools.count(1)


class Passage:
    """What one thread knows of the maps that passed.

    Attributes:
        grid: Size of the last one; None before any.
        trace: None, or the number of the trace that it passed in.
        in_graph: Whether the autograd graph tells its size.
        count: How many passed.
        sizes: Those that passed in the present call of the model, each with the count by then.
        asked: The count when an attention last asked.
    """

    def __init__(self) -> None:
        self.grid: Grid | None = None
        self.trace: int | None = None
        self.in_graph = False
        self.count = 0
        self.sizes: dict[Grid, int] = {}
        self.asked: WeakKeyDictionary = WeakKeyDictionary()


class _Thread(threading.local):
    def __init__(self) -> None:  # runs anew in every thread
        self.passage = Passage()


class PatchMap(Hook):
    """Records the sizes of the maps [B, C, h, w] that a module returns, as its forward hook.

    Args:
        source: What messages call the module.

    Attributes:
        known: Every size that passed in any thread, by its number of patches.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._forget()

    def _forget(self) -> None:
        self._thread = _Thread()
        self.known: dict[int, tuple[Grid, ...]] = {}

    @property
    def passage(self) -> Passage:
        """What this thread knows."""
        return self._thread.passage

    def attach(self: M, module: nn.Module, host: nn.Module | None = None) -> M:
        """Register with a module.

        Args:
            module: Returns the maps.
            host: The model around it, for which one call embeds one batch of images as a rule.

        Returns:
            This hook, or the one of this class that the module has already.
        """
        patch_map = super().attach(module)
        if host is not None:
            CallStart(patch_map).attach(host)
        return patch_map

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> None:
        """Record the size of the output.

        Raises:
            ValueError: It is no map [B, C, h, w].
        """
        if getattr(output, 'ndim', None) != 4:
            got = f'shape {tuple(output.shape)}' if hasattr(output, 'shape') else type(output)
            raise ValueError(f'{self.source} must return a patch map [B, C, h, w], got {got}')
        self.record(output)

    def record(self, patch_map: Tensor) -> None:
        """Note the size of a map [B, C, h, w]."""
        grid = patch_map.shape[-2], patch_map.shape[-1]
        passage = self.passage
        if is_traced(grid[0]):
            passage.grid, passage.trace = grid, trace_number()
            return
        self.learn(grid)
        in_graph = mark(patch_map, self, grid)
        if node := running_node():  # this is a second run, for the backward pass of the node
            metadata_of(node)[self, 'again'] = grid
            return
        passage.grid, passage.trace, passage.in_graph = grid, None, in_graph
        passage.count += 1
        passage.sizes[grid] = passage.count

    def start_call(self) -> None:
        """Forget the sizes that passed in the call of the model before."""
        if not torch.compiler.is_compiling() and running_node() is None:
            self.passage.sizes.clear()

    def last(self, node: Node | None) -> Grid | None:
        """The size of the last map in this thread, outside of traces; None if there is none.

        Args:
            node: For a second run, the node whose backward pass wants it: maps of that run alone.
        """
        if node is not None:
            return metadata_of(node).get((self, 'again'))
        grid = self.passage.grid
        return grid if grid is not None and type(grid[0]) is int else None

    def learn(self, grid: Grid) -> None:
        """Count a size among the known ones."""
        patches = grid[0] * grid[1]
        if grid in self.known.get(patches, ()):
            return
        with _LOCK:
            self.known[patches] = (*self.known.get(patches, ()), grid)

    def __getstate__(self) -> dict:
        # A copy may be one of a single block, where no patch embedding updates the sizes.
        left_out = ('_thread', 'known')
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()


class CallStart(Hook):
    """Notes, as a forward pre-hook, that a call of a model begins: earlier maps no longer count."""

    def __init__(self, patch_map: PatchMap) -> None:
        self.patch_map = patch_map

    def is_like(self, other: Hook) -> bool:
        """Whether one of the two is enough for a module."""
        return isinstance(other, CallStart) and other.patch_map is self.patch_map

    def _register(self, module: nn.Module) -> Any:
        return module.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, args: tuple) -> None:
        """As a forward pre-hook."""
        self.patch_map.start_call()


def is_traced(size: object) -> bool:
    """Whether a size of a tensor is, or may be, a symbol instead of a number."""
    return torch.compiler.is_compiling() or type(size) is not int


@torch.compiler.assume_constant_result
def trace_number() -> int:
    """A number of the trace that torch.compile is making, 0 outside of its traces.

    It distinguishes sizes that were noted in this trace from those that were noted before.
    """
    context = CompileContext.try_get()
    return 0 if context is None else vars(context).setdefault('mita_seg_trace', next(_NUMBERS))
