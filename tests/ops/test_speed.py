"""The tiled backend against scaled_dot_product_attention on the CPU, both timed in turn.

So that a busy machine does not fail them, the bounds are less than half of what an idle one
reaches, and one thread works: several would wait for each other. `make bench-check` runs these
tests alone; `-s` prints the ratios.
"""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from mita_seg.ops import mita_attention
from mita_seg.utils.timing import Timer

FORWARD, BOTH = 'forward', 'forward+backward'


def make_timer(function, tensors, direction):
    def run():
        output = function()
        if direction == BOTH:
            torch.autograd.grad(output, tensors, torch.ones_like(output))

    return Timer(run, 'cpu', calls=1, warm_up=1)


@pytest.mark.speed
@pytest.mark.parametrize(
    ('tokens', 'heads', 'direction', 'repeats', 'bound'),
    [
        (1024, 6, FORWARD, 15, 0.35),
        (1024, 6, BOTH, 15, 0.5),
        (4096, 6, FORWARD, 7, 2.4),
        (4096, 6, BOTH, 5, 2.4),
        (16384, 2, FORWARD, 2, 12),
        (16384, 2, BOTH, 2, 12),
    ],
)
def test_faster_than_full_attention(tokens, heads, direction, repeats, bound):
    tensors = [torch.randn(1, heads, tokens, 64, requires_grad=True) for _ in range(3)]
    landmarks = torch.randn(1, heads, 49, 64, requires_grad=True)
    functions = {
        'full': (lambda: scaled_dot_product_attention(*tensors), tensors),
        'mita': (
            lambda: mita_attention(*tensors, landmarks, topk=49, backend='tiled'),
            [*tensors, landmarks],
        ),
    }
    with torch.set_grad_enabled(direction == BOTH):
        timers = {name: make_timer(*parts, direction) for name, parts in functions.items()}
        best = dict.fromkeys(timers, float('inf'))
        for _ in range(repeats):
            for name, timer in timers.items():
                best[name] = min(best[name], timer.sample())
    ratio = best['full'] / best['mita']
    print(f'N={tokens} {direction}: {ratio:.2f}x full attention')
    assert ratio > bound
