"""Triton's interpreter, quickened for the tests, still finds sums that leave 32 bits."""

import pytest
import torch

from support.operator_cases import DEVICE

triton = pytest.importorskip('triton')
tl = pytest.importorskip('triton.language')

pytestmark = pytest.mark.skipif(DEVICE == 'cuda', reason='nothing is interpreted')
TOP = 2**31 - 1


@triton.jit
def _combine(left, right, how: tl.constexpr):
    if how == 'add':
        result = left + right
    elif how == 'sub':
        result = left - right
    else:
        result = left * right
    return result


@triton.jit
def _combine_kernel(p_left, p_right, p_result, how: tl.constexpr):
    o = tl.arange(0, 2)
    tl.store(p_result + o, _combine(tl.load(p_left + o), tl.load(p_right + o), how))


@pytest.mark.parametrize(
    ('how', 'left', 'right', 'result', 'too_far'),
    [
        ('add', TOP - 1, 1, TOP, 2),
        ('sub', -TOP, 1, -TOP - 1, 2),
        ('mul', 2**20, 2**10, 2**30, 2**11),
    ],
)
def test_overflow_is_an_error(how, left, right, result, too_far):
    def combine(right):
        tensors = [torch.tensor([1, number], dtype=torch.int32) for number in (left, right, 0)]
        _combine_kernel[(1,)](*tensors, how)
        return tensors[2][1].item()

    assert combine(right) == result
    with pytest.raises(Exception, match=f'int32 overflow detected for operation {how}'):
        combine(too_far)
