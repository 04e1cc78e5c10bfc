"""The kernels of MiTA attention, one by one: times, and the floors of what they move."""

import torch

from mita_seg.ops import pool_landmarks, route_queries, select_experts
from mita_seg.ops.triton.blocks import choose_blocks, share_experts
from mita_seg.ops.triton.gpu import gpu_of

from .backends import BACKENDS
from .cases import HEAD_DIM
from .floor import forward_floor
from .kernel_bytes import kernel_bytes
from .kernel_times import subtract, time_kernels
from .operator import BOTH, FORWARD, check_all, draw_tensors, make_entrant, new_row
from .outcome import OK, noting_outcome
from .race import GRAPH, race

BACKWARD = 'backward'
SUM = 'sum'


def benchmark_kernels(case, *, device, dtype, rate, rounds):
    """Check the Triton backend on a case and time its kernels, landmark pooling included.

    Args:
        case (Case): The sizes.
        device (torch.device): A CUDA device.
        dtype (torch.dtype): Of the inputs.
        rate (float): Bytes that a copy reads plus writes a second, for the floors.
        rounds (int): Samples of the time of the graphs.

    Returns:
        list[dict]: A row a kernel and ``pass`` (``forward`` or ``backward``), in the order of the
        launches: the case; ``status`` and ``reason``; ``launches`` and median microseconds
        ``time_us`` a call; ``read_bytes``, ``written_bytes``, ``floor_us`` and
        ``time_over_floor``, which are None for kernels that are not ours. Each pass, and then both,
        end in a row ``sum`` with ``graph_us``, the time of a CUDA graph's replay; its bytes and
        floor are those of our kernels. If something failed, one row that says so.
    """
    backend = BACKENDS['triton']
    inputs, upstream = draw_tensors(case, device, dtype)
    whole = new_row(case, backend, dtype, 1e6 * forward_floor(case, dtype, rate))
    check_all(case, [backend], inputs, [whole])
    times = {}
    for field in (FORWARD, BOTH):
        entrant = make_entrant(field, case, backend, inputs, upstream, whole)
        race([entrant], (GRAPH,), device, rounds, field)
        if whole['status'] == OK:
            with noting_outcome(whole), entrant.scope():
                times[field] = time_kernels(entrant.function)
    if whole['status'] != OK:
        return [{**_new_row(case, dtype), 'status': whole['status'], 'reason': whole['reason']}]

    counts = count_held_keys(*inputs[:2], case), count_segments(inputs[0], case)
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
def count_held_keys(query, key, case):
    """Keys [1, heads, N, d] that some expert of their head holds, of all heads together."""
    landmarks = pool_landmarks(query, case.grid, case.landmark_grid)
    indices = select_experts(key, landmarks, case.topk)
    held = torch.zeros(key.shape[:3], dtype=torch.bool, device=key.device)
    return held.scatter_(2, indices.flatten(2), True).sum().item()


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
    tiles = (queries + blocks.height - 1).div(blocks.height, rounding_mode='floor').clamp(min=1)
    end = tiles.cumsum(1)
    begin, used = end - tiles, end[:, -1:]
    first_program = program(begin, used, programs)
    last_program = program(end - 1, used, programs)
    return (last_program - first_program + 1).sum().item()


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
