"""Measuring several functions in turn, so that they meet the same clocks and neighbours."""

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from .gate import require_equal
from .outcome import OK, noting_outcome
from .timing import Timer, capture, medians

GRAPH, EAGER = 'graph', 'eager'


class Entrant(NamedTuple):
    """A function and the row that its figures go to.

    Attributes:
        row: Holds a ``status``; only what is ``OK`` is run.
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


def race(entrants, modes, device, rounds, field):
    """Time functions in turn.

    Args:
        entrants (Sequence[Entrant]): Their rows get ``{mode}_{field}_us``, the median microseconds
            a call; who fails drops out.
        modes (Sequence[str]): ``GRAPH``, ``EAGER`` or both.
        device (torch.device): Where they work.
        rounds (int): Samples of each.
        field (str): Name of what is timed.
    """
    for mode in modes:
        timers = {}
        for index, entrant in enumerate(entrants):
            if entrant.row['status'] == OK:
                with noting_outcome(entrant.row):
                    timers[index] = _make_timer(entrant, mode, device)
                if entrant.row['status'] != OK:
                    free_cached_memory(device)
        for index, seconds in medians(timers, rounds).items():
            entrants[index].row[f'{mode}_{field}_us'] = 1e6 * seconds
        timers.clear()
        free_cached_memory(device)


def free_cached_memory(device):
    """Give the memory of graphs and failures back, so that the next function has all of it."""
    if device.type == 'cuda':
        gc.collect()  # a failure's traceback holds tensors in a cycle
        torch.cuda.empty_cache()


def _make_timer(entrant, mode, device):
    if mode == EAGER:
        return Timer(entrant.function, device, entrant.scope)
    with entrant.scope():
        replay, result = capture(entrant.function)
        if entrant.repeatable:
            replay()
            require_equal(result, entrant.function(), 'a replay of the graph')
    return Timer(replay, device)
