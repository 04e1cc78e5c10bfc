"""Two runs are bitwise equal."""

import pytest
import torch
from operator_cases import make_inputs, on_device, with_gradients

pytest.importorskip('triton')


def test_two_runs_are_bitwise_equal():
    tensors, arguments = make_inputs('two_experts')
    tensors = on_device(tensors)
    runs = [with_gradients(tensors, **arguments, backend='triton') for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
