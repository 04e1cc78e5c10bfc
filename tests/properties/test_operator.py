"""Whatever the call, every backend computes the definition or says why not."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from mita_seg.ops import mita_attention
from support.property_cases import (
    PLAIN,
    POSITIVE_SCALE,
    TOLERANCE,
    assert_close,
    assert_equals_oracle,
    cases,
)
from support.property_settings import share


@share(230)
@given(cases())
def test_torch_operations_compute_the_definition(case):
    assert_equals_oracle(case, PLAIN)


def with_remainder(case):
    """The call with a remainder, which goes with one routed expert and no shared one."""
    topk = max(case.options['topk'], 1)
    change = {'topk': topk, 'num_routed': 1, 'shared': False, 'remainder': True}
    return replace(case, options={**case.options, **change})


@share(60)
@given(cases())
def test_torch_operations_compute_the_remainder(case):
    assert_equals_oracle(with_remainder(case), ['reference', 'tiled', 'exported'])


# The interpreter takes a third of a second for one head, more for more landmarks.
INTERPRETED = {
    'dtypes': (torch.float32, torch.float16),
    'dims': st.sampled_from([16, 16, 24]),
    'batches': st.just(1),
    'heads': st.sampled_from([1, 1, 2]),
    'largest': 8,
}


@pytest.mark.slow
@share(70)
@given(cases(**INTERPRETED, scales=POSITIVE_SCALE))
def test_kernels_compute_the_definition(case):
    pytest.importorskip('triton')
    assert_equals_oracle(case, ['triton'])


@pytest.mark.slow
@share(20)
@given(cases(**INTERPRETED, scales=POSITIVE_SCALE))
def test_kernels_compute_the_remainder(case):
    pytest.importorskip('triton')
    assert_equals_oracle(with_remainder(case), ['triton'])


@share(60)
@given(cases(dims=st.sampled_from([16, 12, 8, 136])))
def test_kernels_say_what_they_do_not_take(case):
    pytest.importorskip('triton')
    reason = case.kernels_lack()
    assume(reason)
    with pytest.raises(NotImplementedError, match=f"^backend='triton' can't run: {reason}"):
        case.run(case.draw(), 'triton')


TRACED_SCALE = 1e-6  # what rounding the default scale to float32 changes


@share(40)
@given(cases(dtypes=(torch.float64, torch.float32)))
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_traces_compute_the_definition(case):
    tensors = [each.detach() for each in case.draw()]
    attend = case.function()
    trace = torch.jit.trace(lambda *each: attend(*each), tuple(tensors), check_trace=False)
    least = TRACED_SCALE if case.options['scale'] is None else 0
    assert_output_is_the_oracles(case, tensors, trace(*tensors), least)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_the_default_scale_of_a_trace_is_exact():
    tensors = tuple(torch.randn(1, 1, rows, 2, dtype=torch.float64) for rows in (2, 2, 2, 1))
    trace = torch.jit.trace(lambda *each: mita_attention(*each, topk=1), tensors, check_trace=False)
    torch.testing.assert_close(
        trace(*tensors), mita_attention(*tensors, topk=1), rtol=1e-12, atol=0
    )


class Operator(nn.Module):
    def __init__(self, attend):
        super().__init__()
        self.attend = attend

    def forward(self, *tensors):
        return self.attend(*tensors)


@share(20)
@given(cases(dtypes=(torch.float32,), numbers=st.just(False)))
def test_exported_programs_compute_the_definition(case):
    tensors = [each.detach() for each in case.draw()]
    program = torch.export.export(Operator(case.function()), tuple(tensors))
    assert_output_is_the_oracles(case, tensors, program.module()(*tensors))


def assert_output_is_the_oracles(case, tensors, output, least=0):
    expected, clear = case.run_oracle([each.cpu().double() for each in tensors])
    clear = clear.unsqueeze(-1)
    assert_close([output.cpu() * clear], [expected * clear], max(TOLERANCE[case.dtype], least))


@share(40)
@given(
    case=cases(dtypes=(torch.float32,), dims=st.just(16), scales=POSITIVE_SCALE),
    change=st.sampled_from(
        ['topk', 'num_routed', 'no expert', 'scale', 'landmark_scale', 'shared_offset', 'grid']
    ),
    number=st.integers(1, 9),
    odd=st.sampled_from([math.nan, math.inf, -math.inf]),
)
def test_all_backends_refuse_settings_out_of_range_alike(case, change, number, odd):
    options, window, name = dict(case.options), case.window, change
    if change == 'topk':
        options['topk'] = -number
    elif change == 'num_routed':
        options['num_routed'] = 1 - number if number % 2 else case.landmarks + number
    elif change == 'no expert':
        options['topk'], options['shared'], name = 0, False, 'topk=0 with shared=False'
    elif change == 'grid':
        assume(window)
        (height, width), *others = window
        window = ((height + number * case.sizes[2], width), *others)
    else:
        options[change] = odd
    case = replace(case, options=options, window=window)
    tensors = case.draw()
    for backend in (*PLAIN, 'triton', 'auto'):
        with pytest.raises(ValueError, match=f'^{name}'):
            case.run(tensors, backend)
