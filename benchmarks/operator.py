"""The attention operators: times, memory, and how they compare with full attention."""

from contextlib import contextmanager
from functools import partial

import torch

from mita_seg.utils.timing import host_seconds

from .backends import FULL
from .bandwidth import forward_bound
from .cases import HEAD_DIM
from .correctness import CorrectnessCheck
from .timing import (
    EAGER,
    GRAPH,
    OK,
    Candidate,
    free_cached_memory,
    modes_on,
    noting_status,
    peak_extra_bytes,
    time_in_turn,
)

FORWARD, BOTH = 'forward', 'forward_backward'


def benchmark_case(case, backends, *, device, dtype, rate, rounds):
    """Check and measure backends on one case.

    Args:
        case (Case): The sizes.
        backends (Sequence[Backend]): What is compared.
        device (torch.device): Where.
        dtype (torch.dtype): Of the inputs.
        rate (float): Bytes that a copy reads plus writes a second, for the bandwidth bound.
        rounds (int): Samples of each time.

    Returns:
        list[dict]: A row a backend: the case; ``status`` and ``reason``; relative errors; median
        microseconds ``{graph,eager}_{forward,forward_backward}_us`` and ``host_forward_us``;
        ``peak_extra_bytes`` of forward and backward; ratios to the best full attention of this case
        (of times: above 1 is faster; ``memory_ratio``: below 1 is less); the bandwidth bound
        ``floor_us`` and ``forward_over_floor``. What was not measured is None.
    """
    inputs, grad_output = draw_tensors(case, device, dtype)
    bound_us = 1e6 * forward_bound(case, dtype, rate)
    rows = [new_row(case, backend, dtype, bound_us) for backend in backends]

    check_all(case, backends, inputs, rows)
    free_cached_memory(device)
    for field in (FORWARD, BOTH):
        candidates = [
            make_candidate(field, case, backend, inputs, grad_output, row)
            for backend, row in zip(backends, rows, strict=True)
        ]
        for candidate in candidates:
            _measure_alone(field, candidate, device)
        time_in_turn(candidates, modes_on(device), device, rounds, field)
    _add_ratios(rows)
    return rows


def draw_tensors(case, device, dtype):
    """Random query, key and value, which require gradients, and the output's gradient."""
    shape = (1, case.heads, case.tokens, HEAD_DIM)
    inputs = [torch.randn(shape, device=device).to(dtype).requires_grad_() for _ in range(3)]
    return inputs, torch.randn(shape, device=device).to(dtype)


def new_row(case, backend, dtype, bound_us):
    """A row of :func:`benchmark_case` with nothing measured yet."""
    figures = [f'{mode}_{field}' for mode in (GRAPH, EAGER) for field in (FORWARD, BOTH)]
    return {
        **case._asdict(),
        'head_dim': HEAD_DIM,
        'dtype': str(dtype).removeprefix('torch.'),
        'backend': backend.name,
        'attention': backend.attention,
        'status': OK,
        'reason': '',
        'output_error': None,
        'gradient_error': None,
        'floor_us': bound_us,
        **{f'{figure}_us': None for figure in figures},
        'host_forward_us': None,
        'peak_extra_bytes': None,
        **{f'{figure}_ratio': None for figure in figures},
        'memory_ratio': None,
        'forward_over_floor': None,
    }


def check_all(case, backends, inputs, rows):
    """Compare backends with the definition; rows get the errors, and why one is not measured."""
    checks = {}
    for backend, row in zip(backends, rows, strict=True):
        with noting_status(row), backend.scope():
            if backend.attention not in checks:
                checks[backend.attention] = CorrectnessCheck(backend.attention, case, inputs)
            check = checks[backend.attention]
            errors = check.compare(partial(backend.attend, *inputs, case))
            row.update(output_error=errors['output'], gradient_error=errors['gradients'])
            check.require(errors)


def make_candidate(field, case, backend, inputs, grad_output, row):
    """A backend's forward without gradients, or its forward and backward, as `field` says."""

    @contextmanager
    def scope():
        with backend.scope(), torch.set_grad_enabled(field == BOTH):
            yield

    def run():
        output = backend.attend(*inputs, case)
        return torch.autograd.grad(output, inputs, grad_output) if field == BOTH else output

    return Candidate(row, run, scope)


def _measure_alone(field, candidate, device):
    """Memory of forward and backward, and the host's time of a forward."""
    row, function, scope = candidate.row, candidate.function, candidate.scope
    if row['status'] != OK or device.type != 'cuda':
        return
    with noting_status(row):
        if field == BOTH:
            row['peak_extra_bytes'] = peak_extra_bytes(function, device, scope)
        else:
            row['host_forward_us'] = 1e6 * host_seconds(function, scope)


def _add_ratios(rows):
    for mode in (GRAPH, EAGER):
        for field in (FORWARD, BOTH):
            _add_ratio(
                rows, f'{mode}_{field}_us', f'{mode}_{field}_ratio', lambda best, x: best / x
            )
    _add_ratio(rows, 'peak_extra_bytes', 'memory_ratio', lambda best, x: x / best)
    for row in rows:
        forward = row[f'{GRAPH}_{FORWARD}_us'] or row[f'{EAGER}_{FORWARD}_us']
        if forward:
            row['forward_over_floor'] = forward / row['floor_us']


def _add_ratio(rows, figure, ratio, compare):
    best = min((r[figure] for r in rows if r['attention'] == FULL and r[figure]), default=None)
    for row in rows:
        if best and row[figure]:
            row[ratio] = compare(best, row[figure])
