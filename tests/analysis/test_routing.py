import math

import pytest
import torch

from mita_seg.analysis import Routing, observe_routing, routing_figures
from mita_seg.analysis.observe import average, mita_layers
from mita_seg.layers import FullAttention, MiTAAttention
from mita_seg.ops.options import make_options

OPTIONS = {'topk': 2, 'num_routed': 1, 'landmark_scale': 0.5, 'shared': True}


def figures_of(query, key, landmarks, **options):
    filled_in = make_options(query.shape[2:], landmarks.shape[2], **options)
    return routing_figures(Routing(query, key, landmarks, filled_in))


def axes(*signed):
    """Rows of length 4 along axes: 1 is the first, -1 the opposite."""
    rows = torch.zeros(1, 1, len(signed), 4)
    for row, axis in enumerate(signed):
        rows[0, 0, row, abs(axis) - 1] = math.copysign(3, axis)
    return rows


def test_figures_of_a_case_by_hand():
    landmarks = axes(1, 2, 3)
    query = axes(1, 1, 1, 2)  # three to the first expert, one to the second, none to the third
    key = axes(1, 1, 2, 3)  # expert 0: keys 0 and 1; 1: keys 2 and 0; 2: keys 3 and 0
    figures = figures_of(query, key, landmarks, **OPTIONS)
    assert figures['empty_experts'] == pytest.approx(1 / 3)
    assert figures['busiest_expert'] == pytest.approx(3 / 4)
    assert figures['unchosen_keys'] == 0
    assert figures['unreached_keys'] == pytest.approx(1 / 4)  # key 3 is in the empty expert only
    assert figures['overlap'] == pytest.approx(3 / 6)  # key 0 is in all three


def test_shared_mass_is_the_landmarks_part_of_the_softmax():
    query, key = torch.randn(2, 3, 12, 8), torch.randn(2, 3, 12, 8)
    landmarks = torch.randn(2, 3, 4, 8)
    # With all keys in every expert, routing does not matter.
    figures = figures_of(query, key, landmarks, **{**OPTIONS, 'topk': 99})
    logits = torch.cat((0.5 * query @ landmarks.mT, 8**-0.5 * query @ key.mT), -1)
    expected = logits.softmax(-1)[..., :4].sum(-1).mean().item()
    assert figures['shared_mass'] == pytest.approx(expected, rel=1e-5)
    assert figures['unchosen_keys'] == 0


def test_compress_only_and_route_only():
    tensors = torch.randn(3, 1, 2, 6, 8)
    compress = figures_of(*tensors, **{**OPTIONS, 'topk': 0})
    assert compress['shared_mass'] == 1 and math.isnan(compress['empty_experts'])
    assert figures_of(*tensors, **{**OPTIONS, 'shared': False})['shared_mass'] == 0


def test_several_routes_a_query_all_count():
    query, key, landmarks = torch.randn(3, 1, 2, 6, 8)
    figures = figures_of(query, key, landmarks, **{**OPTIONS, 'num_routed': 6, 'topk': 1})
    assert figures['empty_experts'] == 0
    assert figures['busiest_expert'] == pytest.approx(1 / 6)


@pytest.fixture
def model():
    return torch.nn.ModuleDict(
        {'first': MiTAAttention(16, 2, landmarks=(2, 2), topk=3), 'second': FullAttention(16, 2)}
    )


def test_observation_sees_every_pass_changes_nothing_and_ends(model):
    tokens = torch.randn(1, 13, 16)
    expected = model['first'](tokens, (3, 4), 1)
    with observe_routing(model) as collected:
        for _ in range(2):
            assert torch.equal(model['first'](tokens, (3, 4), 1), expected)
    model['first'](tokens, (3, 4), 1)
    assert list(collected) == ['first'] and len(collected['first']) == 2
    assert average(collected)['first'] == pytest.approx(collected['first'][0])
    assert 'attend' not in vars(model['first'])


def test_model_without_experts_is_refused(model):
    with pytest.raises(ValueError, match='no MiTAAttention'):
        mita_layers(model['second'])
