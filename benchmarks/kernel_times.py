"""How long each GPU kernel takes that a function launches, as torch's profiler saw it."""

import statistics
from collections import defaultdict
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

_CALLS = 50
_WARM_UP = 10


class KernelTime(NamedTuple):
    """What one kernel takes in a call of a function."""

    launches: float  # a call; no integer if only some calls launch it
    microseconds: float  # a call, all launches together


def time_kernels(function):
    """Time the kernels of a CUDA function, copies and fills of memory included.

    Args:
        function (Callable[[], Any]): Called many times in a row; launches the same at every call.

    Returns:
        dict[str, KernelTime]: By name, in the order of the first launches.
    """
    for _ in range(_WARM_UP):
        function()
    torch.cuda.synchronize()
    # acc_events: else torch warns about profiles of several cycles, which this is not.
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        for _ in range(_CALLS):
            function()
        torch.cuda.synchronize()
    return sum_up(profiler.events(), _CALLS)


def sum_up(events, calls):
    """Add up the launches of each kernel within a call.

    Args:
        events (Iterable[FunctionEvent]): Of the profiler; what did not run on the device is
            skipped.
        calls (int): How often the function was called.

    Returns:
        dict[str, KernelTime]: The median over the calls; the mean where the launches can't be told
        apart by calls, as there are not equally many in each.
    """
    durations = defaultdict(list)
    on_device = (event for event in events if event.device_type == DeviceType.CUDA)
    for event in sorted(on_device, key=lambda event: event.time_range.start):
        durations[event.name].append(event.time_range.end - event.time_range.start)
    times = {}
    for name, launches in durations.items():
        each, rest = divmod(len(launches), calls)
        if rest:
            duration = sum(launches) / calls
        else:
            starts = range(0, len(launches), each)
            duration = statistics.median(sum(launches[start : start + each]) for start in starts)
        times[name] = KernelTime(len(launches) / calls, duration)
    return times


def subtract(both, forward):
    """Times of a backward pass.

    Args:
        both (dict[str, KernelTime]): Of forward and backward.
        forward (dict[str, KernelTime]): Of the forward alone.

    Returns:
        dict[str, KernelTime]: What the backward launches; of a kernel that the forward launches
        too, the difference.
    """
    times = {}
    for name, time in both.items():
        less = forward.get(name, KernelTime(0, 0))
        if time.launches > less.launches:
            times[name] = KernelTime(
                time.launches - less.launches, time.microseconds - less.microseconds
            )
    return times
