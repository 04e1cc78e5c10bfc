"""torch.compile of the torch backends: one graph, dynamic token counts."""

import pytest
import torch

from mita_seg.ops import mita_attention, pool_landmarks
from mita_seg.ops.surroundings import is_exporting
from support.operator_cases import DEVICE, gradients


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['reference', 'tiled', 'masked'])
def test_one_graph_serves_every_token_count(backend):
    def attend(query, key, value, grid):
        landmarks = pool_landmarks(query, grid, (2, 2))
        return mita_attention(query, key, value, landmarks, topk=4, backend=backend)

    compiled = torch.compile(attend, fullgraph=True, dynamic=True, backend='aot_eager')
    for grid in ((5, 6), (9, 7)):
        tensors = [torch.randn(1, 2, grid[0] * grid[1], 8, requires_grad=True) for _ in range(3)]
        results = [function(*tensors, grid) for function in (attend, compiled)]
        torch.testing.assert_close(*results)
        for expected, grad in zip(*(gradients(r, tensors) for r in results), strict=True):
            torch.testing.assert_close(grad, expected)


@pytest.mark.slow
def test_inductor_gives_the_eager_result():
    # On a GPU where there is one: machines with one need not have a C++ compiler.
    tensors = [torch.randn(1, 2, 40, 8, device=DEVICE, requires_grad=True) for _ in range(3)]
    landmarks = torch.randn(1, 2, 4, 8, device=DEVICE, requires_grad=True)
    compiled = torch.compile(mita_attention, fullgraph=True)
    results = [f(*tensors, landmarks, topk=4) for f in (mita_attention, compiled)]
    torch.testing.assert_close(*results)
    for expected, grad in zip(*(gradients(r, tensors) for r in results), strict=True):
        torch.testing.assert_close(grad, expected)


def test_a_compiled_call_is_not_taken_for_an_export(monkeypatch):
    # What torch.compile of releases before 2.13 reads wherever it traces.
    monkeypatch.setattr(torch.compiler, 'is_exporting', lambda: True)
    assert not is_exporting()
