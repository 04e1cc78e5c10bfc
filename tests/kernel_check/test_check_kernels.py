"""Every kernel compiles and fits, for every architecture, as tools/check_kernels.py finds."""

import json
import subprocess
import sys

import pytest

from mita_seg.ops.triton.gpu import ARCHITECTURES

pytest.importorskip('triton')

KERNELS = {
    '_pool_kernel', '_score_and_route_kernel', '_topk_and_sort_kernel', '_attend_kernel',
    '_merge_kernel', '_shared_backward_kernel', '_reduce_and_place_kernel',
    '_query_backward_kernel', '_key_backward_kernel', '_landmark_backward_kernel',
    '_expert_backward_kernel', '_accumulate_dkv_kernel', '_accumulate_dkv_sparse_kernel',
    '_reduce_landmarks_kernel', '_sum_routes_kernel', '_pool_backward_kernel',
    '_join_kernel', '_sum_joined_kernel', '_move_kernel', '_move_backward_kernel',
    '_joined_backward_kernel',
    '_sum_outside_kernel', '_merge_outside_kernel', '_prepare_logits_kernel',
    '_cross_entropy_kernel', '_cell_backward_kernel', '_sum_cells_kernel',
}  # fmt: skip


def run(repository, *arguments):
    command = [sys.executable, repository / 'tools/check_kernels.py', *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_each_kernel_fits_each_architecture(repository, tmp_path):
    """The whole matrix of cases is `make check-kernels`."""
    file = tmp_path / 'new' / 'found.json'
    few = [number for number in ARCHITECTURES if number != 86]  # which has the blocks of 89
    arguments = ['--quick', '--json', file, '--processes', '1']
    result = run(repository, *arguments, '--arch', *map(str, few))
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(file.read_text())
    assert found['cases'] == 6
    assert list(found['architectures']) == [str(number) for number in few]
    for number, architecture in found['architectures'].items():
        assert architecture['limit'] == ARCHITECTURES[int(number)].shared_memory
        assert set(architecture['kernels']) == KERNELS
        for name, kernel in architecture['kernels'].items():
            assert 0 <= kernel['shared'] <= architecture['limit'], (number, name)
            assert 16 <= kernel['registers'] <= 255 and kernel['cases'] == 1
            # On Hopper a few registers less let a program more run, which was faster.
            assert kernel['spills'] <= (8 if number == '90' else 0), (number, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--arch', '75'], '--arch must be of 80, 86, 89, 90, 100, 120; got 75'),
        (['--processes', '0'], '--processes must be at least 1, got 0'),
    ],
)
def test_what_cannot_be_checked_is_said(repository, arguments, message):
    result = run(repository, *arguments)
    assert result.returncode == 2 and message in result.stderr
    assert 'Traceback' not in result.stderr


@pytest.mark.slow
def test_what_this_machine_would_use_is_said(repository):
    result = run(repository, '--here')
    assert result.returncode == 0, result.stderr
    assert 'torch ' in result.stdout and 'Triton ' in result.stdout
    assert "backend='auto' takes " in result.stdout
