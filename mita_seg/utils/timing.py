"""How long a function takes: as a CUDA graph, called eagerly, and on the host alone."""

import statistics
import time
from contextlib import nullcontext

import torch

_WARM_UP = 3
# Of one sample: long against a clock's resolution and the launch of the first call.
_SAMPLE_SECONDS = 5e-3
_MOST_CALLS = 200
_FEWEST_ROUNDS = 3
_HOST_CALLS = 50


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


class Timer:
    """Times a function on a device.

    Args:
        function (Callable[[], Any]): What is timed.
        device (torch.device): Where it works.
        scope (Callable[[], ContextManager]): Makes the context in which it is called; entering it
            is not timed.
    """

    def __init__(self, function, device, scope=nullcontext):
        self._function = function
        self._seconds = _cuda_seconds if device.type == 'cuda' else _cpu_seconds
        self._scope = scope
        self._calls = 1
        for _ in range(_WARM_UP):
            once = self.sample()
        self._calls = max(1, min(_MOST_CALLS, round(_SAMPLE_SECONDS / once)))

    def sample(self):
        """Seconds a call, averaged over a few milliseconds of calls in a row."""
        with self._scope():
            return self._seconds(self._function, self._calls)


def medians(timers, rounds, seconds=10.0):
    """Median seconds a call of several timers that take turns.

    Args:
        timers (dict[str, Timer]): The timers.
        rounds (int): Samples of each; fewer, but at least three, where they take long.
        seconds (float): What is long.

    Returns:
        dict[str, float]: By the names of the timers.
    """
    samples = {name: [] for name in timers}
    end = time.perf_counter() + seconds
    for done in range(rounds):
        if done >= _FEWEST_ROUNDS and time.perf_counter() > end:
            break
        for name, timer in timers.items():
            samples[name].append(timer.sample())
    return {name: statistics.median(values) for name, values in samples.items()}


def host_seconds(function, scope=nullcontext):
    """Median seconds that a CUDA function keeps the host busy, from its call to its return."""
    durations = []
    with scope():
        for _ in range(_WARM_UP + _HOST_CALLS):
            torch.cuda.synchronize()  # an empty queue, so that no launch waits for room
            start = time.perf_counter()
            function()
            durations.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return statistics.median(durations[_WARM_UP:])


def _cuda_seconds(function, calls):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / calls


def _cpu_seconds(function, calls):
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls
