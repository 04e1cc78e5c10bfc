import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.backends import BACKENDS, FULL, MITA
from benchmarks.cases import HEAD_DIM, Case
from benchmarks.correctness import TOLERANCES, CorrectnessCheck, WrongResult, require_equal
from mita_seg.ops import pooled_mita_attention

CASE = Case(256, 3, 9, 8)


def make_check(attention, dtype=torch.float32, case=CASE):
    shape = (1, case.heads, case.tokens, HEAD_DIM)
    inputs = [torch.randn(shape).to(dtype).requires_grad_() for _ in range(3)]
    return CorrectnessCheck(attention, case, inputs), inputs


def require_right(check, attend):
    errors = check.compare(attend)
    check.require(errors)
    return errors


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('name', ['sdpa', 'math', 'tiled', 'reference'])
def test_right_backends_pass(name, dtype):
    backend = BACKENDS[name]
    check, inputs = make_check(backend.attention, dtype)
    errors = require_right(check, lambda: backend.attend(*inputs, CASE))
    assert set(errors) == {'output', 'gradients'}
    if dtype == torch.float32:
        assert max(errors.values()) < 1e-5


def test_tokens_behind_the_patches_are_not_pooled():
    case = Case(280, 3, 9, 8, others=24)
    check, inputs = make_check(MITA, case=case)
    errors = require_right(check, lambda: BACKENDS['tiled'].attend(*inputs, case))
    assert max(errors.values()) < 1e-5
    with pytest.raises(WrongResult):  # those before the patches are not pooled either
        require_right(
            check,
            lambda: pooled_mita_attention(*inputs, case.grid, case.landmark_grid, start=24, topk=8),
        )


def test_a_sample_of_the_queries_is_enough_to_pass():
    """Of 4,096 queries 1,024 are compared, and the gradients are those of their loss."""
    case = Case(4096, 1, 9, 8)
    check, inputs = make_check(MITA, case=case)
    errors = require_right(check, lambda: BACKENDS['tiled'].attend(*inputs, case))
    assert max(errors.values()) < 1e-5


def wrong_scale(query, key, value):
    return scaled_dot_product_attention(query, key, value, scale=0.2)


def wrong_head(query, key, value):
    output = scaled_dot_product_attention(query, key, value)
    return torch.cat([output[:, :-1], output[:, :1]], 1)


def no_gradient_to_keys(query, key, value):
    return scaled_dot_product_attention(query, key.detach() + 0 * key, value)


@pytest.mark.parametrize(
    ('attend', 'what'),
    [
        (wrong_scale, 'output'),
        (wrong_head, 'output'),
        (no_gradient_to_keys, 'gradients'),
        (lambda query, key, value: 0 * (query + key + value), 'output'),
    ],
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_wrong_full_attention_is_caught(attend, what, dtype):
    check, inputs = make_check(FULL, dtype)
    with pytest.raises(WrongResult, match=f'error of {what}'):
        require_right(check, lambda: attend(*inputs))


@pytest.mark.parametrize(
    'wrong',
    [{'topk': 2}, {'landmark_scale': 1.0}, {'shared': False}, {'num_landmarks': (2, 2)}],
    ids=str,
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_wrong_mita_attention_is_caught(wrong, dtype):
    check, inputs = make_check(MITA, dtype)
    options = {'num_landmarks': CASE.landmark_grid, 'topk': CASE.topk, **wrong}
    with pytest.raises(WrongResult, match='relative error'):
        require_right(
            check, lambda: pooled_mita_attention(*inputs, CASE.grid, **options, backend='tiled')
        )


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_one_number_that_is_not_finite_is_caught_wherever_it_is(bad):
    check, inputs = make_check(FULL)

    def attend():
        output = scaled_dot_product_attention(*inputs)
        spoilt = torch.zeros_like(output)
        spoilt[0, 1, 7, 5] = bad  # of a head that is not compared
        return output + spoilt

    with pytest.raises(WrongResult, match='not finite'):
        check.compare(attend)


def test_replays_are_compared_up_to_rounding():
    expected = torch.randn(50)
    require_equal([expected * (1 + 0.5 * TOLERANCES[torch.float32])], [expected], 'a replay')
    for wrong in (expected.roll(1), expected * float('nan')):
        with pytest.raises(WrongResult):
            require_equal(wrong, expected, 'a replay')
