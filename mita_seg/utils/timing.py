"""How long a function takes on the CPU or on a CUDA device: the timer of all that is timed."""

import statistics
import time
from contextlib import nullcontext

import torch

_WARM_UP = 3
# Of one sample: long against a clock's resolution and the launch of the first call.
_SAMPLE_SECONDS = 5e-3
_MOST_CALLS = 200
_HOST_CALLS = 50


class Timer:
    """Times a function on a device, after a few calls to warm up.

    Every sample ends when the device has done the work. On CUDA it is taken by events, and nothing
    waits between the calls of a sample.

    Args:
        function (Callable[[], Any]): What is timed.
        device (torch.device | str): Where it works.
        scope (Callable[[], ContextManager]): Makes the context in which it is called; entering it
            is not timed.
        calls (int, optional): Of a sample, in a row; by default as many as take a few milliseconds.
        warm_up (int): Calls before the first sample, at least one.
    """

    def __init__(self, function, device, scope=nullcontext, calls=None, warm_up=_WARM_UP):
        self._function = function
        self._seconds = _cuda_seconds if torch.device(device).type == 'cuda' else _cpu_seconds
        self._scope = scope
        self._calls = 1
        for _ in range(warm_up):
            once = self.sample()
        self._calls = calls or max(1, min(_MOST_CALLS, round(_SAMPLE_SECONDS / once)))

    def sample(self):
        """Seconds a call, averaged over the calls of one sample."""
        with self._scope():
            return self._seconds(self._function, self._calls)

    def median(self, rounds, **limits):
        """Median seconds a call; arguments as of :func:`medians`."""
        return medians({'': self}, rounds, **limits)['']


def medians(timers, rounds, fewest=3, seconds=10.0):
    """Median seconds a call of several timers that take turns.

    So they meet the same clock rates of the device and the same other work on the machine.

    Args:
        timers (dict[str, Timer]): The timers.
        rounds (int): Samples of each.
        fewest (int): Samples of each where they take longer than `seconds`.
        seconds (float): For all rounds together.

    Returns:
        dict[str, float]: By the names of the timers.
    """
    samples = {name: [] for name in timers}
    end = time.perf_counter() + seconds
    for done in range(rounds):
        if done >= fewest and time.perf_counter() > end:
            break
        for name, timer in timers.items():
            samples[name].append(timer.sample())
    return {name: statistics.median(values) for name, values in samples.items()}


def host_seconds(function, scope=nullcontext):
    """Median seconds that a CUDA function keeps the host busy, from its call to its return."""
    durations = []
    with scope():
        for _ in range(_WARM_UP + _HOST_CALLS):
            start = read_clock('cuda')  # an empty queue, so that no launch waits for room
            function()
            durations.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return statistics.median(durations[_WARM_UP:])


def read_clock(device):
    """Seconds on a clock, once the device (torch.device | str) has done all its work."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter()


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
