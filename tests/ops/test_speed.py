"""The tiled backend against scaled_dot_product_attention on the CPU, both timed in turn.

The bounds are about two thirds of what two idle cores reach, so that a busy machine does not fail
them; `-s` prints the ratios themselves.
"""

import os
import time

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from mita_seg.ops import mita_attention

FORWARD, BOTH = 'forward', 'forward+backward'


@pytest.fixture(autouse=True)
def all_cores():
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count())
    yield
    torch.set_num_threads(threads)


def seconds(function, tensors, direction):
    start = time.perf_counter()
    output = function()
    if direction == BOTH:
        torch.autograd.grad(output, tensors, torch.ones_like(output))
    return time.perf_counter() - start


@pytest.mark.speed
@pytest.mark.parametrize(
    ('tokens', 'direction', 'repeats', 'bound'),
    [
        (1024, FORWARD, 15, 0.35),
        (1024, BOTH, 15, 0.5),
        (4096, FORWARD, 7, 2.4),
        (4096, BOTH, 5, 2.4),
        (16384, FORWARD, 2, 12),
        (16384, BOTH, 1, 12),
    ],
)
def test_faster_than_full_attention(tokens, direction, repeats, bound):
    tensors = [torch.randn(1, 6, tokens, 64, requires_grad=True) for _ in range(3)]
    landmarks = torch.randn(1, 6, 49, 64, requires_grad=True)
    functions = {
        'full': (lambda: scaled_dot_product_attention(*tensors), tensors),
        'mita': (
            lambda: mita_attention(*tensors, landmarks, topk=49, backend='tiled'),
            [*tensors, landmarks],
        ),
    }
    with torch.set_grad_enabled(direction == BOTH):
        seconds(*functions['mita'], direction)  # warm-up
        best = dict.fromkeys(functions, float('inf'))
        for _ in range(repeats):
            for name, arguments in functions.items():
                best[name] = min(best[name], seconds(*arguments, direction))
    ratio = best['full'] / best['mita']
    print(f'N={tokens} {direction}: {ratio:.2f}x full attention')
    assert ratio > bound
