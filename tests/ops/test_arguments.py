"""Every bad argument is refused with its name, its value and what is accepted."""

import sys
from pathlib import Path

import pytest
import torch

from mita_seg.ops import (
    attention,
    latest,
    mita_attention,
    pool_landmarks,
    pooled_mita_attention,
    route_queries,
    select_experts,
)
from mita_seg.ops.latest import Latest


def call(**changes):
    arguments = {name: torch.randn(1, 2, 12, 8) for name in ('query', 'key', 'value')}
    arguments |= {'landmarks': torch.randn(1, 2, 4, 8), 'topk': 3} | changes
    tensors = [arguments.pop(name) for name in ('query', 'key', 'value', 'landmarks')]
    return mita_attention(*tensors, **arguments)


@pytest.mark.parametrize(
    ('changes', 'error', 'message'),
    [
        ({'query': [1.0]}, TypeError, r'query must be a torch\.Tensor, got list'),
        ({'key': torch.randn(2, 12, 8)}, ValueError, r'key must have 4 dimensions.*\(2, 12, 8\)'),
        ({'value': torch.randn(1, 2, 12, 6)}, ValueError, r'value must agree .*\(1, 2, 12, 6\)'),
        ({'key': torch.randn(1, 2, 11, 8)}, ValueError, r'key must hold as many tokens as query'),
        ({'key': torch.randn(1, 2, 0, 8)}, ValueError, r'key must have no empty dimension'),
        ({'landmarks': torch.randn(1, 3, 4, 8)}, ValueError, r'landmarks must agree'),
        ({'landmarks': torch.randn(1, 2, 4, 8).double()}, TypeError, r'landmarks.*float64'),
        ({'key': torch.ones(1, 2, 12, 8).long()}, TypeError, r'key must be floating.*int64'),
        ({'value': torch.empty(1, 2, 12, 8, device='meta')}, ValueError, r'value.*device.*meta'),
        ({'topk': -1}, ValueError, r'topk must be at least 0, got -1'),
        ({'topk': 2.0}, TypeError, r'topk must be an int, got 2\.0'),
        ({'topk': True}, TypeError, r'topk must be an int, got True'),
        ({'topk': 0, 'shared': False}, ValueError, r'topk=0 with shared=False'),
        ({'num_routed': 0}, ValueError, r'num_routed must be from 1 to .*4, got 0'),
        ({'num_routed': 5}, ValueError, r'num_routed must be from 1 to .*4, got 5'),
        ({'num_routed': 1.0}, TypeError, r'num_routed must be an int, got 1\.0'),
        ({'scale': '1'}, TypeError, r"scale must be a number, got '1'"),
        ({'scale': float('nan')}, ValueError, r'scale must be finite, got nan'),
        ({'landmark_scale': torch.ones(1)}, TypeError, r'landmark_scale must be a number'),
        (
            {'backend': 'flash'},
            ValueError,
            r"one of 'auto', 'reference', 'tiled', 'masked', 'triton', got 'flash'",
        ),
        (
            {'backend': 'triton'},
            NotImplementedError,
            r"backend='triton' can't run: (it needs CUDA tensors.*got cpu|Triton is not inst)",
        ),
    ],
)
def test_mita_attention(changes, error, message, monkeypatch):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    with pytest.raises(error, match=message):
        call(**changes)


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        ({'grid': (3, 5)}, ValueError, r'grid \(3, 5\) from token start=0 needs 15 tokens.* 12'),
        ({'start': 1}, ValueError, r'grid \(3, 4\) from token start=1 needs 13 tokens.* 12'),
        ({'start': -1}, ValueError, r'start must be at least 0, got -1'),
        ({'start': 0.5}, TypeError, r'start must be an int, got 0\.5'),
        ({'grid': (0, 4)}, ValueError, r'grid must be two ints of at least 1, got \(0, 4\)'),
        ({'grid': 12}, TypeError, r'grid must be two ints \(rows, columns\), got 12'),
        ({'num_landmarks': (2, 0)}, ValueError, r'num_landmarks must be two ints .*\(2, 0\)'),
        ({'num_landmarks': (2.0, 2)}, TypeError, r'num_landmarks must be two ints .*\(2\.0, 2\)'),
        ({'query': torch.randn(2, 12, 8)}, ValueError, r'query must have 4 dimensions'),
        ({'query': torch.ones(1, 2, 12, 8).int()}, TypeError, r'query must be floating'),
    ],
)
def test_pool_landmarks(arguments, error, message):
    arguments = {
        'query': torch.randn(1, 2, 12, 8),
        'grid': (3, 4),
        'num_landmarks': (2, 2),
    } | arguments
    with pytest.raises(error, match=message):
        pool_landmarks(**arguments)


def test_select_experts_and_route_queries():
    tokens, landmarks = torch.randn(1, 2, 12, 8), torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match='topk must be at least 1, got 0'):
        select_experts(tokens, landmarks, 0)
    with pytest.raises(TypeError, match="topk must be an int, got 'all'"):
        select_experts(tokens, landmarks, 'all')
    with pytest.raises(ValueError, match=r'num_routed must be from 1 to .*4, got 9'):
        route_queries(tokens, landmarks, 9)
    with pytest.raises(ValueError, match='landmarks must have 4 dimensions'):
        route_queries(tokens, landmarks[0], 1)


def test_a_single_wide_landmark_grid_and_lists_are_accepted():
    query = torch.randn(1, 2, 12, 8)
    assert pool_landmarks(query, [3, 4], [1, 4]).shape == (1, 2, 4, 8)


@pytest.fixture
def nothing_known(monkeypatch):
    """No call has been checked yet."""
    for name in ('_settled', '_settled_pooled'):
        monkeypatch.setattr(attention, name, Latest())


def functions_of(function, *args, **options):
    """What a call enters: file and function."""
    entered = []

    def count(frame, event, _):
        if event == 'call':
            code = frame.f_code
            entered.append((Path(code.co_filename).name, code.co_name))

    sys.setprofile(count)
    try:
        function(*args, **options)
    finally:
        sys.setprofile(None)
    return entered


CHECKS = [
    ('attention.py', '_select_backend'),
    ('validation.py', 'check_heads'),
    ('validation.py', 'check_grid'),
    ('options.py', 'make_options'),
    ('support.py', 'unsupported_reason'),
]


def test_a_pooled_call_is_validated_and_dispatched_once(nothing_known):
    """Inner functions trust what the public one has checked."""
    tokens = torch.randn(3, 1, 2, 12, 16).unbind()
    entered = functions_of(pooled_mita_attention, *tokens, (3, 4), (2, 2), topk=3)
    for function in [('attention.py', 'pooled_mita_attention'), *CHECKS]:
        assert entered.count(function) == 1, function


def test_a_call_like_an_earlier_one_is_not_checked_again(nothing_known):
    tokens = torch.randn(3, 1, 2, 12, 16).unbind()
    first = pooled_mita_attention(*tokens, (3, 4), (2, 2), topk=3)
    entered = functions_of(pooled_mita_attention, *tokens, (3, 4), (2, 2), topk=3)
    assert not set(CHECKS) & set(entered)
    assert torch.equal(pooled_mita_attention(*tokens, (3, 4), (2, 2), topk=3), first)


@pytest.mark.parametrize(
    ('changes', 'error'),
    [
        ({'topk': 1.0}, TypeError),
        ({'topk': True}, TypeError),
        ({'num_routed': True}, TypeError),
        ({'shared_offset': False}, TypeError),
        ({'remainder': 0}, TypeError),
        ({'query': torch.randn(1, 2, 12, 8).double()}, TypeError),
        ({'value': torch.randn(1, 2, 13, 8)}, ValueError),
        ({'landmarks': torch.randn(1, 2, 4, 9)}, ValueError),
        ({'topk': [1]}, TypeError),
        ({'backend': 'flash'}, ValueError),
    ],
)
def test_bad_arguments_are_refused_after_good_ones_that_look_alike(changes, error):
    good = {'topk': 1, 'num_routed': 1, 'shared_offset': 0}
    call(**good)
    with pytest.raises(error):
        call(**good | changes)


@pytest.mark.parametrize('pair', [(3, 4.0), (3, True), (3, 4, 1), 12])
def test_bad_grids_are_refused_after_good_ones_that_look_alike(pair):
    tokens = torch.randn(3, 1, 2, 12, 8).unbind()
    pooled_mita_attention(*tokens, (3, 4), (1, 2), topk=3)
    pooled_mita_attention(*tokens, (3, 1), (1, 1), topk=3)
    with pytest.raises(TypeError, match='grid must be two ints'):
        pooled_mita_attention(*tokens, pair, (1, 2), topk=3)
    with pytest.raises(TypeError, match='num_landmarks must be two ints'):
        pooled_mita_attention(*tokens, (3, 4), pair, topk=3)


def test_another_dtype_grid_or_number_is_another_call(nothing_known):
    tokens = torch.randn(3, 1, 2, 12, 8).double()
    remainder = {'shared': False, 'remainder': True}
    alone = {'shared': False}
    for changes in ({}, {'topk': 2}, alone, remainder, {'landmark_scale': 0.1}, {'start': 1}):
        for dtype in (torch.float32, torch.float64):
            for grid in ((3, 3), (1, 9)):
                given = [*tokens.to(dtype), grid, (1, 3)]
                options = {'topk': 3, 'start': 0} | changes
                found = pooled_mita_attention(*given, **options)
                start = options.pop('start')
                landmarks = pool_landmarks(given[0], grid, (1, 3), start=start)
                expected = mita_attention(*given[:3], landmarks, **options)
                assert found.dtype == dtype
                torch.testing.assert_close(found, expected)


def test_only_the_latest_calls_are_kept(nothing_known, monkeypatch):
    monkeypatch.setattr(latest, '_MOST', 3)
    for tokens in range(9, 15):
        pooled_mita_attention(*torch.randn(3, 1, 1, tokens, 8), (3, 3), (1, 2), topk=2)
    assert len(attention._settled_pooled) == 3


def test_nothing_is_kept_of_calls_under_a_transform(nothing_known):
    tokens = torch.randn(3, 2, 1, 2, 9, 8).unbind()

    def attend(*tensors):
        return pooled_mita_attention(*tensors, (3, 3), (1, 2), topk=2)

    torch.func.vmap(attend)(*tokens)
    torch.func.jvp(attend, tuple(each[0] for each in tokens), tuple(each[0] for each in tokens))
    assert not attention._settled_pooled
