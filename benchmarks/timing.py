"""Interleaved timing of several functions, their memory, and how each measurement ended."""

import gc
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch

from mita_seg.utils.timing import Timer, medians

from .correctness import WrongResult, require_equal

GRAPH, EAGER = 'graph', 'eager'
OK = 'ok'
WRONG = 'wrong'
UNAVAILABLE = 'unavailable'
OUT_OF_MEMORY = 'out of memory'
FAILED = 'failed'
# What scaled_dot_product_attention says when the only backend allowed cannot run.
_NO_BACKEND = ('No available kernel', 'No viable backend')
_WARM_UP = 3  # calls before a capture


class Candidate(NamedTuple):
    """A function and the row that its figures go to.

    Attributes:
        row: Has a ``status``; only what is ``OK`` is run.
        function: Returns tensors.
        scope: Makes the context in which the function is called.
        repeatable: Whether every call returns the same, so that a graph's replay has to.
    """

    row: dict[str, Any]
    function: Callable[[], Any]
    scope: Callable[[], AbstractContextManager] = nullcontext
    repeatable: bool = True


def modes_on(device):
    """How functions can be timed on a device: as replays of CUDA graphs, and as eager calls."""
    return (GRAPH, EAGER) if device.type == 'cuda' else (EAGER,)


def time_in_turn(candidates, modes, device, rounds, field):
    """Time functions in turn, so that they meet the same clock rates and the same other work.

    Args:
        candidates (Sequence[Candidate]): Their rows get ``{mode}_{field}_us``, the median
            microseconds per call; one that fails is left out from then on.
        modes (Sequence[str]): ``GRAPH``, ``EAGER`` or both.
        device (torch.device): Where they work.
        rounds (int): Samples of each.
        field (str): Name of what is timed.
    """
    for mode in modes:
        timers = {}
        for index, candidate in enumerate(candidates):
            if candidate.row['status'] == OK:
                with noting_status(candidate.row):
                    timers[index] = _make_timer(candidate, mode, device)
                if candidate.row['status'] != OK:
                    free_cached_memory(device)
        for index, seconds in medians(timers, rounds).items():
            candidates[index].row[f'{mode}_{field}_us'] = 1e6 * seconds
        timers.clear()
        free_cached_memory(device)


@contextmanager
def noting_status(row):
    """Note in a row why its function can't be measured; the others are measured all the same.

    Args:
        row (dict): Gets ``status`` and ``reason``.
    """
    try:
        yield
    except WrongResult as error:
        _note(row, WRONG, error)
    except NotImplementedError as error:
        _note(row, UNAVAILABLE, error)
    # Whatever else a backend raises: compilers and drivers have exceptions of their own.
    except Exception as error:
        # Leaving a CUDA graph's capture may raise again on top of the allocator's error.
        if any(isinstance(e, torch.OutOfMemoryError) for e in (error, error.__context__)):
            _note(row, OUT_OF_MEMORY, error)
        elif any(words in str(error) for words in _NO_BACKEND):
            _note(row, UNAVAILABLE, error)
        else:
            traceback.print_exc(file=sys.stderr)
            _note(row, FAILED, f'{type(error).__name__}: {error}')


def free_cached_memory(device):
    """Give the memory of graphs and failures back, so that the next function has all of it."""
    if device.type == 'cuda':
        gc.collect()  # a failure's traceback holds tensors in a cycle
        torch.cuda.empty_cache()


def peak_extra_bytes(function, device, scope=nullcontext):
    """Peak of the CUDA allocator during one call, beyond what was allocated before it.

    What the function returns counts. A first call, not measured, leaves behind what is allocated
    once only, such as workspaces.

    Args:
        function (Callable[[], Any]): What is measured.
        device (torch.device): Where it works.
        scope (Callable[[], ContextManager]): Makes the context in which it is called.

    Returns:
        int | None: Bytes; None on devices whose allocator does not keep count.
    """
    if device.type != 'cuda':
        return None
    with scope():
        function()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = function()  # kept until the peak is read
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    del result
    return peak - before


def capture(function):
    """Capture a function as a CUDA graph; call it within the scope that it needs.

    Args:
        function (Callable[[], Any]): Works on the same tensors at every call, without
            synchronisation.

    Returns:
        tuple[Callable[[], None], Any]: What replays it, and the captured call's result, which every
        replay overwrites.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    return graph.replay, result


def _make_timer(candidate, mode, device):
    if mode == EAGER:
        return Timer(candidate.function, device, candidate.scope)
    with candidate.scope():
        replay, result = capture(candidate.function)
        if candidate.repeatable:
            replay()
            require_equal(result, candidate.function(), 'a replay of the graph')
    return Timer(replay, device)


def _note(row, status, reason):
    lines = str(reason).strip().splitlines() or ['']
    row.update(status=status, reason=lines[0])
