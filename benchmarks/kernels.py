"""The kernels of MiTA attention, one by one: times, and the bandwidth bounds of what they move."""

import statistics
from collections import defaultdict
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from mita_seg.ops import pool_landmarks, route_queries, select_experts
from mita_seg.ops.triton.blocks import choose_blocks, share_experts
from mita_seg.ops.triton.gpu import gpu_of

from .backends import BACKENDS
from .bandwidth import forward_bound, kernel_bytes
from .cases import HEAD_DIM
from .operator import BOTH, FORWARD, check_all, draw_tensors, make_candidate, new_row
from .timing import GRAPH, OK, noting_status, time_in_turn

BACKWARD = 'backward'
SUM = 'sum'
_CALLS = 50
_WARM_UP = 10


class KernelTime(NamedTuple):
    """What one kernel takes in a call of a function."""

    launches: float  # a call; no integer if only some calls launch it
    microseconds: float  # a call, all launches together


def benchmark_kernels(case, *, device, dtype, rate, rounds):
    """Check the Triton backend on a case and time its kernels, landmark pooling included.

    Args:
        case (Case): The sizes.
        device (torch.device): A CUDA device.
        dtype (torch.dtype): Of the inputs.
        rate (float): Bytes that a copy reads plus writes a second, for the bounds.
        rounds (int): Samples of the time of the graphs.

    Returns:
        list[dict]: A row a kernel and ``pass`` (``forward`` or ``backward``), in the order of the
        launches: the case; ``status`` and ``reason``; ``launches`` and median microseconds
        ``time_us`` a call; ``read_bytes``, ``written_bytes``, the bandwidth bound ``floor_us`` and
        ``time_over_floor``, which are None for kernels that are not ours. Each pass, and then both,
        end in a row ``sum`` with ``graph_us``, the time of a CUDA graph's replay; its bytes and
        bound are those of our kernels. If something failed, one row that says so.
    """
    backend = BACKENDS['triton']
    inputs, grad_output = draw_tensors(case, device, dtype)
    whole = new_row(case, backend, dtype, 1e6 * forward_bound(case, dtype, rate))
    check_all(case, [backend], inputs, [whole])
    times = {}
    for field in (FORWARD, BOTH):
        candidate = make_candidate(field, case, backend, inputs, grad_output, whole)
        time_in_turn([candidate], (GRAPH,), device, rounds, field)
        if whole['status'] == OK:
            with noting_status(whole), candidate.scope():
                times[field] = time_kernels(candidate.function)
    if whole['status'] != OK:
        return [{**_new_row(case, dtype), 'status': whole['status'], 'reason': whole['reason']}]

    counts = count_selected_keys(*inputs[:2], case), count_segments(inputs[0], case)
    traffic = kernel_bytes(case, dtype, *counts, gpu_of(device))
    passes = {FORWARD: times[FORWARD], BACKWARD: subtract(times[BOTH], times[FORWARD])}
    forward_us, both_us = (whole[f'{GRAPH}_{field}_us'] for field in (FORWARD, BOTH))
    graphs = {FORWARD: forward_us, BACKWARD: both_us - forward_us}
    rows, sums = [], []
    for name, kernels in passes.items():
        own = [
            _fill(_new_row(case, dtype, name, kernel), time, traffic.get(kernel), rate)
            for kernel, time in kernels.items()
        ]
        sums.append(_add_up(own, case, dtype, name, graphs[name]))
        rows += [*own, sums[-1]]
    return [*rows, _add_up(sums, case, dtype, BOTH, both_us)]


@torch.no_grad()
def count_selected_keys(query, key, case):
    """Keys [1, heads, N, d] that some expert of their head selects, of all heads together."""
    landmarks = pool_landmarks(query, case.grid, case.landmark_grid)
    indices = select_experts(key, landmarks, case.topk)
    selected = torch.zeros(key.shape[:3], dtype=torch.bool, device=key.device)
    return selected.scatter_(2, indices.flatten(2), True).sum().item()


@torch.no_grad()
def count_segments(query, case):
    """Segments of experts in the backward pass for queries [1, heads, N, d], all heads together.

    An expert has one for each program that has some of its tiles.
    """
    from mita_seg.ops.triton.routed_backward import program_of_tile  # needs Triton

    program = program_of_tile.fn  # plain arithmetic, on tensors too
    blocks = choose_blocks(
        case.heads, case.tokens, HEAD_DIM, case.landmarks, case.topk, 1, query.element_size(),
        gpu_of(query.device),
    )  # fmt: skip
    _, programs = share_experts(blocks, case.heads, case.tokens, case.landmarks, case.topk)
    landmarks = pool_landmarks(query, case.grid, case.landmark_grid)
    expert = route_queries(query, landmarks, 1)[0, ..., 0]  # [heads, N]
    queries = torch.nn.functional.one_hot(expert, case.landmarks).sum(1)  # [heads, m]
    tiles = (
        (queries + blocks.tile_height - 1)
        .div(blocks.tile_height, rounding_mode='floor')
        .clamp(min=1)
    )
    end = tiles.cumsum(1)
    begin, used = end - tiles, end[:, -1:]
    first_program = program(begin, used, programs)
    last_program = program(end - 1, used, programs)
    return (last_program - first_program + 1).sum().item()


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


def _new_row(case, dtype, name=None, kernel=None):
    return {
        **case._asdict(),
        'dtype': str(dtype).removeprefix('torch.'),
        'pass': name,
        'kernel': kernel,
        'status': OK,
        'reason': '',
        'launches': None,
        'time_us': None,
        'graph_us': None,
        'read_bytes': None,
        'written_bytes': None,
        'floor_us': None,
        'time_over_floor': None,
    }


def _fill(row, time, traffic, rate):
    row.update(launches=time.launches, time_us=time.microseconds)
    if traffic:
        floor_us = 1e6 * (traffic.read + traffic.written) / rate
        row.update(read_bytes=traffic.read, written_bytes=traffic.written, floor_us=floor_us)
        row['time_over_floor'] = time.microseconds / floor_us
    return row


def _add_up(rows, case, dtype, name, graph_us):
    row = {**_new_row(case, dtype, name, SUM), 'graph_us': graph_us}
    for field in ('launches', 'time_us', 'read_bytes', 'written_bytes', 'floor_us'):
        row[field] = sum(part[field] or 0 for part in rows)
    row['time_over_floor'] = row['time_us'] / row['floor_us']
    return row
