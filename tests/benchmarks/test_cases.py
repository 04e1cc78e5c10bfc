import pytest
import torch

from benchmarks.backends import BACKENDS, choose_backends
from benchmarks.cases import (
    CPU_CASES,
    CPU_CROPS,
    CUDA_CASES,
    CUDA_CROPS,
    Case,
    Crop,
    parse_case,
    parse_crop,
)


def test_standard_sizes_are_ones_that_the_command_line_accepts():
    for case in CUDA_CASES + CPU_CASES:
        assert parse_case(':'.join(map(str, case[:4]))) == case
        assert case.grid[0] * case.grid[1] == case.tokens
        assert case.landmark_grid[0] * case.landmark_grid[1] == case.landmarks
    for crop in CUDA_CROPS + CPU_CROPS:
        assert parse_crop(':'.join(map(str, crop))) == crop


def test_order_of_the_numbers():
    assert parse_case('4096:48:49:36') == Case(tokens=4096, heads=48, landmarks=49, topk=36)
    assert parse_crop('1024:8') == Crop(pixels=1024, batch=8)


def test_tokens_behind_the_patches():
    case = parse_case('1024+150:48:36:36')
    assert case == Case(tokens=1174, heads=48, landmarks=36, topk=36, others=150)
    assert case.grid == (32, 32)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('1024', "N:BH:M:K, got '1024'"),
        ('1024:6:49', 'N:BH:M:K'),
        ('1024:6:49:x', 'positive integers'),
        ('1024:6:49:0', 'positive integers'),
        ('1024:6:-49:49', 'positive integers'),
        ('1024+0:6:49:49', 'positive integers'),
        ('1024+x:6:49:49', 'positive integers'),
        ('1000+24:6:49:49', 'N must be a square'),
        ('1000:6:49:49', 'N must be a square.*N=1000'),
        ('1024:6:50:49', 'm must be a square.*m=50'),
    ],
)
def test_bad_cases_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse_case(text)


@pytest.mark.parametrize(
    ('text', 'words'), [('512', 'PIXELS:BATCH'), ('512:0', 'positive'), ('500:1', 'multiple of 32')]
)
def test_bad_crops_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse_crop(text)


@pytest.mark.parametrize(
    ('device', 'dtype', 'names'),
    [
        ('cuda', torch.bfloat16, ['flash', 'cudnn', 'triton', 'masked', 'tiled']),
        ('cuda', torch.float32, ['efficient', 'triton', 'masked', 'tiled']),
        ('cpu', torch.float32, ['sdpa', 'tiled']),
    ],
)
def test_backends_compared_by_default(device, dtype, names):
    chosen = choose_backends(None, torch.device(device), dtype)
    assert [backend.name for backend in chosen] == names


def test_unknown_backend_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="flash.*triton.*got 'flush'"):
        choose_backends(['tiled', 'flush'], torch.device('cpu'), torch.float32)


def test_a_backend_named_twice_runs_once():
    chosen = choose_backends(['tiled', 'math', 'tiled'], torch.device('cpu'), torch.float32)
    assert chosen == [BACKENDS['tiled'], BACKENDS['math']]
