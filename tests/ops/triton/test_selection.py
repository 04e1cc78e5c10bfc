"""Which keys the kernels choose, and which experts: those of the torch backends."""

import pytest
import torch
from operator_cases import on_device

from mita_seg.ops import select_experts

pytest.importorskip('triton')


def test_selection_keeps_the_tie_rule():
    key = torch.randint(-1, 2, (1, 2, 1300, 16)).float()
    landmarks = torch.randint(-1, 2, (1, 2, 5, 16)).float()
    query, value = torch.randn(2, 1, 2, 1300, 16).unbind(0)
    tensors = on_device([query, key, value, landmarks])
    from mita_seg.ops.triton.op import triton_attention
    from mita_seg.ops.triton.state import lay_out, view_state

    _, state = triton_attention(*tensors, 0, 0, 0, 0, 0, 20, 1, 0.25, 0.25, True)
    layout = lay_out(tensors[0], 5, pooled=False, topk=20, num_routed=1, shared=True)
    expected = select_experts(tensors[1], tensors[3], 20)
    assert torch.equal(view_state(state, layout).indices.view_as(expected).long(), expected)
