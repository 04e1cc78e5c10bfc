import pytest
import torch
from torch import nn
from torch.export import Dim, export
from torch.nn.functional import adaptive_avg_pool2d

from mita_seg.ops import exporting, pooled_mita_attention, selection
from mita_seg.ops.options import MiTAOptions
from mita_seg.ops.reference import reference_attention
from support.operator_cases import CASES, gradients, make_inputs

GRID = (2, 3)  # of landmarks


def filled_in(tensors, arguments):
    return MiTAOptions(scale=tensors[0].shape[-1] ** -0.5, landmark_scale=0.3, **arguments)


@pytest.mark.parametrize('case', CASES)
def test_what_is_exported_equals_the_definition(case):
    tensors, arguments = make_inputs(case)
    options = filled_in(tensors, arguments)
    output = exporting.exported_attention(*tensors, options)
    expected = reference_attention(*tensors, options)
    torch.testing.assert_close(output, expected)
    for got, wanted in zip(gradients(output, tensors), gradients(expected, tensors), strict=True):
        if wanted is not None:  # of landmarks that are only chosen by
            torch.testing.assert_close(got, wanted)


def test_float16_does_not_overflow():
    tensors, arguments = make_inputs('usual', requires_grad=False)
    options = filled_in(tensors, arguments)
    halves = [(100 * tensor).half() for tensor in tensors]
    output = exporting.exported_attention(*halves, options)
    expected = reference_attention(*(half.double() for half in halves), options)
    torch.testing.assert_close(output, expected.half(), atol=0.2, rtol=2e-3)


@pytest.mark.parametrize('topk', [1, 15, 40])
def test_ties_go_to_the_lowest_index(topk):
    scores = torch.randint(0, 4, (2, 3, 40)).float()
    scores[0, 0] = -torch.inf
    chosen = exporting.top_indices(scores, topk).sort(-1).values
    assert torch.equal(chosen, selection.top_indices(scores, topk))


@pytest.mark.parametrize('size', [(6, 9), (7, 5), (1, 2)])
def test_pooling_is_adaptive_average_pooling(size):
    patch_map = torch.randn(2, 4, *size, dtype=torch.float64)
    expected = adaptive_avg_pool2d(patch_map, (3, 4))
    torch.testing.assert_close(exporting.pool(patch_map, 3, 4), expected)


class Operator(nn.Module):
    """Of a map [B, d, h, w], its own queries, keys and values, in two heads."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, patch_map):
        rows = patch_map.flatten(2).transpose(1, 2)
        rows = torch.stack((rows, 2 * rows), 1)
        return pooled_mita_attention(rows, rows, rows, patch_map.shape[2:], GRID, **self.options)


BATCH = {0: Dim('b', min=1, max=2**20)}
SIZES = {**BATCH, 2: Dim('h', min=2, max=2**20), 3: Dim('w', min=2, max=2**20)}
OLD = tuple(map(int, torch.__version__.split('.')[:2])) < (2, 11)


@pytest.mark.slow
@pytest.mark.parametrize(
    'sizes',
    [
        None,
        pytest.param(BATCH, marks=pytest.mark.long),
        pytest.param(SIZES, marks=[pytest.mark.long, pytest.mark.skipif(OLD, reason='old torch')]),
    ],
)
def test_a_strict_export_computes_the_same(sizes):
    """By Dynamo, which reads the code of the operator itself."""
    model, patch_map = Operator(topk=5, num_routed=2), torch.randn(2, 16, 5, 9)
    shapes = None if sizes is None else (sizes,)
    program = export(model, (patch_map,), dynamic_shapes=shapes, strict=True).module()
    for count in (2, 3 if sizes else 2):
        patch_map = torch.randn(count, *patch_map.shape[1:])
        torch.testing.assert_close(program(patch_map), model(patch_map))


@pytest.mark.slow
def test_one_program_serves_every_batch_and_size():
    model = Operator(topk=5, num_routed=2)
    program = export(model, (torch.randn(2, 16, 5, 9),), dynamic_shapes=(SIZES,), strict=False)
    assert not [node for node in program.graph.nodes if 'mita_seg' in str(node.target)]
    # 4 tokens are less than k.
    for shape in ((1, 16, 2, 2), (3, 16, 8, 4), (1, 16, 30, 40))[OLD:]:
        patch_map = torch.randn(shape)
        torch.testing.assert_close(program.module()(patch_map), model(patch_map))
