import json

import pytest
import torch

from benchmarks.backends import BACKENDS, FULL, MITA, Backend, choose_backends
from benchmarks.bandwidth import copy_rate, forward_bound
from benchmarks.cases import HEAD_DIM, Case
from benchmarks.operator import benchmark_case
from benchmarks.report import write_report

CASE = Case(64, 2, 4, 4)
CPU = torch.device('cpu')
TIMES = ('eager_forward_us', 'eager_forward_backward_us')


def run(*backends, device=CPU, dtype=torch.float32, rate=1e9, case=CASE):
    rows = benchmark_case(case, backends, device=device, dtype=dtype, rate=rate, rounds=3)
    assert [row['backend'] for row in rows] == [backend.name for backend in backends]
    return rows


def test_ratios_compare_with_the_best_full_attention():
    rows = run(*(BACKENDS[name] for name in ('math', 'sdpa', 'tiled')))
    assert [row['status'] for row in rows] == ['ok'] * 3
    for field in ('eager_forward', 'eager_forward_backward'):
        best = min(row[f'{field}_us'] for row in rows[:2])
        for row in rows:
            assert row[f'{field}_ratio'] == pytest.approx(best / row[f'{field}_us'])
    for row in rows:
        assert row['floor_us'] == pytest.approx(4 * 2 * 64 * HEAD_DIM * 4 / 1e9 * 1e6)
        assert row['forward_over_floor'] == row['eager_forward_us'] / row['floor_us']
        assert row['graph_forward_us'] is row['host_forward_us'] is row['peak_extra_bytes'] is None


def test_wrong_backend_is_not_timed_and_the_others_are():
    calls = []

    def attend(query, key, value, case):
        calls.append(1)
        return value + 0 * (query + key)

    wrong, right = run(Backend('cheat', MITA, attend), BACKENDS['tiled'])
    assert wrong['status'] == 'wrong' and 'output' in wrong['reason']
    assert wrong['output_error'] > 0.1
    assert all(wrong[field] is None for field in TIMES)
    assert len(calls) == 1
    assert right['status'] == 'ok' and all(right[field] > 0 for field in TIMES)


def raising(error):
    def attend(query, key, value, case):
        raise error

    return Backend('broken', FULL, attend)


@pytest.mark.parametrize(
    ('error', 'status'),
    [
        (torch.OutOfMemoryError('CUDA out of memory. Tried to allocate'), 'out of memory'),
        (NotImplementedError("backend='triton' can't run"), 'unavailable'),
        (RuntimeError('No available kernel. Aborting execution.'), 'unavailable'),
        (AssertionError(), 'failed'),
    ],
)
def test_a_backend_that_raises_is_left_out_alone(error, status):
    broken, right = run(raising(error), BACKENDS['sdpa'])
    assert broken['status'] == status
    assert str(error) in broken['reason']
    assert right['status'] == 'ok' and right['eager_forward_us'] > 0


def test_out_of_memory_in_a_capture_is_recognised():
    """Leaving the capture raises an error of its own."""
    error = RuntimeError('capture invalidated')
    error.__context__ = torch.OutOfMemoryError('Tried to allocate 20 GiB')
    (row,) = run(raising(error))
    assert row['status'] == 'out of memory'


def test_without_full_attention_there_are_times_but_no_ratios():
    (row,) = run(BACKENDS['tiled'])
    assert row['eager_forward_us'] > 0 and row['eager_forward_ratio'] is None


def test_bandwidth_bound_is_four_tensors_at_the_rate_of_a_copy():
    assert forward_bound(Case(1024, 3, 4, 4), torch.bfloat16, 2e9) == 4 * 1024 * 3 * 64 * 2 / 2e9
    assert 1e8 < copy_rate(CPU, 3) < 1e13


def test_report_names_what_failed_and_is_valid_json(tmp_path):
    rows = [*run(BACKENDS['sdpa'], raising(ValueError('boom'))), *run(BACKENDS['cudnn'])]
    results = {'environment': {'copy_gb_per_s': 1.0}, 'operator': rows, 'model': []}
    text = write_report(tmp_path, results)
    assert '- broken: failed: ValueError: boom (N=64 B*H=2 m=4 k=4)' in text
    assert '- cudnn: unavailable' in text
    assert 'memory MiB' not in text.split('Tensors are')[0]  # no empty columns
    loaded = json.loads((tmp_path / 'results.json').read_text(), parse_constant=pytest.fail)
    assert loaded == results


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_on_cuda_graphs_host_and_memory_are_measured():
    device = torch.device('cuda')
    names = choose_backends(None, device, torch.bfloat16)
    for row in run(*names, device=device, dtype=torch.bfloat16, case=Case(1024, 4, 49, 49)):
        if row['status'] == 'unavailable':
            continue
        assert row['status'] == 'ok', row['reason']
        for mode in ('graph', 'eager'):
            assert 0 < row[f'{mode}_forward_us'] < row[f'{mode}_forward_backward_us']
        # Three gradients are returned.
        assert row['peak_extra_bytes'] >= 3 * 4 * 1024 * HEAD_DIM * 2
        assert row['host_forward_us'] > 0
