"""Two runs are bitwise equal, outputs and gradients."""

import pytest
import torch

from mita_seg.ops import pooled_mita_attention
from support.operator_cases import (
    DEVICE,
    draw_inputs,
    gradients,
    make_inputs,
    on_device,
    with_gradients,
)

pytest.importorskip('triton')

LOW = [torch.float16] + [torch.bfloat16] * (DEVICE == 'cuda')


def test_two_runs_are_bitwise_equal():
    tensors, arguments = make_inputs('two_experts')
    tensors = on_device(tensors)
    runs = [with_gradients(tensors, **arguments, backend='triton') for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize('dtype', LOW)
@pytest.mark.parametrize(
    'options',
    [{}, {'shared': False, 'remainder': True}, {'num_routed': 2}][: 3 if DEVICE == 'cuda' else 2],
)
def test_two_runs_of_pooled_attention_are_bitwise_equal(dtype, options):
    """More landmarks than a block, whose experts hold fewer keys than there are."""
    side, columns, topk, heads = (9, 8, 1, 1) if DEVICE == 'cpu' else (64, 9, 49, 24)
    query, key, value, _ = draw_inputs(side * side + 1, 1, heads=heads, dtype=dtype)
    assert 9 * columns > 64 and 9 * columns * topk < side * side + 1

    def run():
        output = pooled_mita_attention(
            query, key, value, (side, side), (9, columns), start=1,
            topk=topk, backend='triton', **options,
        )  # fmt: skip
        return output, *gradients(output, (query, key, value))

    runs = [run() for _ in range(2 if DEVICE == 'cpu' else 5)]
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))
