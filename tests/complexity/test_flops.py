"""FLOP counts through MMEngine's own counter, as mmseg's get_flops calls it."""

import pytest
import torch
from mmengine.analysis import get_model_complexity_info

from mita_seg.complexity import flops
from mita_seg.ops import mita_attention, pool_landmarks, pooled_mita_attention


class Attention(torch.nn.Module):
    def __init__(self, **arguments):
        super().__init__()
        self.arguments = arguments

    def forward(self, tokens):
        if not self.arguments:
            return torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        landmarks = pool_landmarks(tokens, (7, 7), (3, 3), start=1)
        return mita_attention(tokens, tokens, tokens, landmarks, **self.arguments)


def counted(**arguments):
    flops.register()
    tokens = torch.randn(2, 3, 50, 16)
    return get_model_complexity_info(
        Attention(**arguments), inputs=(tokens,), show_table=False, show_arch=False
    )['flops']


# N d (4m + 2sk) with N = 50, d = 16, m = 9, six heads
@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        ({'topk': 5}, 6 * 50 * 16 * (4 * 9 + 2 * 5)),
        ({'topk': 5, 'num_routed': 3}, 6 * 50 * 16 * (4 * 9 + 2 * 3 * 5)),
        ({'topk': 0}, 6 * 50 * 16 * 4 * 9),
        ({'topk': 5, 'shared': False}, 6 * 50 * 16 * (2 * 9 + 2 * 5)),
        ({'topk': 5, 'shared': False, 'remainder': True}, 6 * 50 * 16 * (4 * 9 + 2 * 6)),
        ({'topk': 50, 'shared': False, 'remainder': True}, 6 * 50 * 16 * (2 * 9 + 2 * 50)),
        ({'topk': 80}, 6 * 50 * 16 * (4 * 9 + 2 * 50)),
        ({}, 6 * 2 * 50 * 50 * 16),
    ],
)
def test_counter_follows_the_formula(arguments, expected):
    assert counted(**arguments) == expected


def test_every_backend_counts_alike():
    counts = {counted(topk=5, backend=backend) for backend in ('reference', 'tiled', 'auto')}
    assert len(counts) == 1


class PooledAttention(Attention):
    def forward(self, tokens):
        return pooled_mita_attention(
            tokens, tokens, tokens, (7, 7), (3, 3), start=1, **self.arguments
        )


@pytest.mark.parametrize('kind', [Attention, PooledAttention])
def test_tracing_keeps_the_result(kind):
    module, tokens = kind(topk=5).eval(), torch.randn(2, 3, 50, 16)
    traced = torch.jit.trace(module, tokens, check_trace=False)
    torch.testing.assert_close(traced(tokens), module(tokens))
