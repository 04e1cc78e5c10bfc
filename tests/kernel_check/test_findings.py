"""What a check does with what the compiler says."""

import pytest
import torch

pytest.importorskip('triton')

from mita_seg.kernel_check import check as checks
from mita_seg.kernel_check.cases import CASES, CLUSTER_CASES, LOSS_CASES, REPRESENTATIVE, Case
from mita_seg.kernel_check.compilation import Resources
from mita_seg.kernel_check.finding_tables import format_check
from mita_seg.kernel_check.launches import list_launches
from mita_seg.ops.triton.gpu import ARCHITECTURES


@pytest.fixture
def compiler(monkeypatch):
    """Answers by kernel, instead of compiling."""
    answers = {}

    class Pool:
        def __init__(self, processes):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def imap_unordered(self, function, items):
            return map(function, items)

    def compile_launch(launch, architecture):
        answer = answers.get(launch.name, Resources(1024, 32, 0))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(checks.multiprocessing, 'get_context', lambda kind: checks.multiprocessing)
    monkeypatch.setattr(checks.multiprocessing, 'Pool', Pool)
    monkeypatch.setattr(checks, 'compile_launch', compile_launch)
    return answers


def test_too_much_shared_memory_is_a_failure_where_the_gpu_has_less(compiler):
    compiler['_attend_kernel'] = Resources(120 * 1024, 128, 0)
    check = checks.check_kernels([80, 89], [Case()])
    assert len(check.failures) == 1
    assert 'sm_89 _attend_kernel' in check.failures[0] and '122880 bytes' in check.failures[0]
    assert check.failures[0] in format_check(check)


def test_what_does_not_compile_is_a_failure(compiler):
    compiler['_accumulate_dkv_kernel'] = RuntimeError('in a kernel:\n  ptxas died')
    check = checks.check_kernels([90], [Case()])
    assert check.failures[0].endswith('does not compile: RuntimeError: ptxas died')
    assert '_accumulate_dkv_kernel' not in check.findings[90]


@pytest.mark.parametrize(
    ('case', 'told'),
    [
        (Case(), True),
        (Case(dtype=torch.float16, dim=32), True),
        (Case(dim=128), False),
        (Case(dtype=torch.float32), False),
    ],
)
def test_spills_are_told_at_half_precision_and_small_heads(case, told, compiler):
    compiler['_score_and_route_kernel'] = Resources(1024, 168, 3)
    check = checks.check_kernels([80], [case])
    assert bool(check.spills) == told and not check.failures
    assert check.findings[80]['_score_and_route_kernel'].spills == 3


def test_findings_are_the_most_of_the_cases(compiler):
    cases = [Case(), Case(dim=32), Case(dim=32)]
    kernels = checks.check_kernels([80], cases).as_json()['architectures']['80']['kernels']
    assert kernels['_pool_kernel'] == {'shared': 1024, 'registers': 32, 'spills': 0, 'cases': 3}


def test_cases_reach_the_limits_of_what_is_supported():
    assert {case.dtype for case in CASES} == {torch.bfloat16, torch.float16, torch.float32}
    assert {16, 128} <= {case.dim for case in CASES}
    assert any(case.topk == 1024 and case.landmarks == (32, 32) for case in CASES)
    assert any(case.topk == 0 for case in CASES) and any(not case.shared for case in CASES)
    assert any(case.num_routed > 1 for case in CASES)


def test_losses_are_cases_of_their_own(compiler):
    check = checks.check_kernels([80], LOSS_CASES)
    assert check.cases == len(LOSS_CASES) and not check.failures
    assert check.findings[80]['_cross_entropy_kernel'].cases == len(LOSS_CASES)
    compiler['_cell_backward_kernel'] = Resources(1024, 255, 7)
    check = checks.check_kernels([80], LOSS_CASES[:1])
    assert check.spills == [
        'sm_80 _cell_backward_kernel, bfloat16 loss C=150 32x32 times 16: 7 registers'
    ]


def test_k_means_are_cases_of_their_own(compiler):
    compiler['_join_kernel'] = Resources(1024, 255, 7)
    check = checks.check_kernels([80], CLUSTER_CASES)
    assert check.cases == len(CLUSTER_CASES) and not check.failures
    assert check.findings[80]['_move_backward_kernel'].cases == len(CLUSTER_CASES)
    assert check.spills[0] == (
        'sm_80 _join_kernel, bfloat16 k-means d=16 N=1024 m=49, steps: 1: 7 registers'
    )
    assert not any('float32' in spill or 'd=128' in spill for spill in check.spills)


@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_offsets_and_blocks_of_all_cases_can_be_chosen(architecture):
    for case in (*CASES, *REPRESENTATIVE):
        names = [launch.name for launch in list_launches(case, ARCHITECTURES[architecture])]
        assert names[0] == '_pool_kernel' and len(names) >= 6
        assert ('_sum_outside_kernel' in names) == case.remainder
