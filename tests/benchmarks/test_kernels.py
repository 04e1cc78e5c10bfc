import re

import pytest
import torch

from benchmarks import kernels
from benchmarks.backends import BACKENDS
from benchmarks.bandwidth import copy_rate, kernel_bytes
from benchmarks.cases import HEAD_DIM, Case
from benchmarks.kernels import (
    KernelTime,
    benchmark_kernels,
    count_segments,
    count_selected_keys,
)
from benchmarks.report import write_report
from mita_seg.ops.triton.gpu import gpu_of

pytest.importorskip('triton')
CASE = Case(64, 1, 4, 4)
TIMES = [
    {'_pool_kernel': KernelTime(1, 3.0), 'Memset (Device)': KernelTime(1, 2.0)},
    {
        '_pool_kernel': KernelTime(1, 3.1),
        'Memset (Device)': KernelTime(1, 2.0),
        '_accumulate_dkv_sparse_kernel': KernelTime(2, 8.0),
    },
]


def run(rate=1e9, case=CASE, device='cpu', dtype=torch.float32):
    return benchmark_kernels(case, device=torch.device(device), dtype=dtype, rate=rate, rounds=3)


@pytest.fixture
def scripted_gpu(monkeypatch):
    """A GPU whose kernels take given times."""

    def time_in_turn(candidates, modes, device, rounds, field):
        candidates[0].row[f'graph_{field}_us'] = {'forward': 5.5, 'forward_backward': 15.0}[field]

    times = iter(TIMES)
    monkeypatch.setattr(kernels, 'time_kernels', lambda function: next(times))
    monkeypatch.setattr(kernels, 'time_in_turn', time_in_turn)


@pytest.mark.skipif(torch.cuda.is_available(), reason='kernels are not interpreted')
def test_each_kernel_has_its_pass_bound_and_place_in_the_sums(scripted_gpu, tmp_path):
    rows = run()
    assert [(row['pass'], row['kernel']) for row in rows] == [
        ('forward', '_pool_kernel'),
        ('forward', 'Memset (Device)'),
        ('forward', 'sum'),
        ('backward', '_accumulate_dkv_sparse_kernel'),
        ('backward', 'sum'),
        ('forward_backward', 'sum'),
    ]
    pool, memset, forward, fold, backward, both = rows
    # All queries, and the landmarks, in float32 at 1 GB/s.
    assert (pool['read_bytes'], pool['written_bytes']) == (64 * HEAD_DIM * 4, 4 * HEAD_DIM * 4)
    assert pool['floor_us'] == pytest.approx(68 * HEAD_DIM * 4 / 1e3)
    assert pool['time_over_floor'] == pytest.approx(3.0 / pool['floor_us'])
    assert memset['time_us'] == 2 and memset['floor_us'] is memset['time_over_floor'] is None
    assert fold['launches'] == 2
    assert [part['time_us'] for part in (forward, backward, both)] == [5, 8, 13]
    assert [part['graph_us'] for part in (forward, backward, both)] == [5.5, 9.5, 15]
    assert both['floor_us'] == pytest.approx(pool['floor_us'] + fold['floor_us'])

    text = write_report(tmp_path, {'environment': {'copy_gb_per_s': 1.0}, 'kernels': rows})
    assert '### N=64 B*H=1 m=4 k=4' in text
    text = re.sub(' +', ' ', text)
    assert '| forward | Memset (Device) | 1 | 2.0 | -' in text
    assert '| forward and backward | sum ' in text


def test_wrong_results_are_not_timed(monkeypatch, tmp_path):
    wrong = BACKENDS['triton']._replace(attend=lambda q, k, v, case: v + 0 * (q + k))
    monkeypatch.setitem(BACKENDS, 'triton', wrong)
    monkeypatch.setattr(kernels, 'time_in_turn', lambda *_: None)
    monkeypatch.setattr(kernels, 'time_kernels', lambda _: pytest.fail('was timed'))
    (row,) = run()
    assert row['status'] == 'wrong' and row['time_us'] is None
    text = write_report(tmp_path, {'environment': {'copy_gb_per_s': 1.0}, 'kernels': [row]})
    assert '- triton: wrong: relative error of output' in text
    assert '(N=64 B*H=1 m=4 k=4)' in text


def test_keys_that_several_experts_select_count_once():
    """All keys alike: every expert selects the first ones."""
    query, key = torch.randn(1, 2, 64, HEAD_DIM), torch.ones(1, 2, 64, HEAD_DIM)
    assert count_selected_keys(query, key, Case(64, 2, 4, 5)) == 2 * 5


def test_expert_whose_tiles_go_to_three_programs_has_three_segments():
    """All queries alike go to the first expert: of 7 tiles it has 4, and 4 programs share them."""
    assert count_segments(torch.ones(1, 2, 64, HEAD_DIM), Case(64, 2, 4, 5)) == 2 * (3 + 1 + 1 + 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_on_cuda_the_kernels_are_those_of_the_table_and_add_up_to_the_graph():
    case = Case(4096, 48, 49, 49)
    rows = run(copy_rate(torch.device('cuda'), 3), case, 'cuda', torch.bfloat16)
    assert {row['status'] for row in rows} == {'ok'}
    names = {row['kernel'] for row in rows if row['floor_us'] and row['kernel'] != 'sum'}
    assert names == set(kernel_bytes(case, torch.bfloat16, 1, 1, gpu_of(torch.device('cuda'))))
    for row in rows:
        if row['kernel'] == 'sum':
            assert 0.7 < row['time_us'] / row['graph_us'] < 1.2
