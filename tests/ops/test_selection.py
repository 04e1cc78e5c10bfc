"""Which keys and which experts are chosen, ties included."""

import pytest
import torch

from mita_seg.ops import reference, route_queries, select_experts
from mita_seg.ops.options import MiTAOptions
from mita_seg.ops.selection import top_indices


def first_of_ties(row, topk):
    return sorted(sorted(range(len(row)), key=lambda n: -row[n])[:topk])


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('num_scores', [1, 2, 63, 64, 127, 1025])
@pytest.mark.parametrize('topk', [1, 5, 36, 1025])
def test_top_indices_with_many_ties(dtype, num_scores, topk):
    topk = min(topk, num_scores)
    generator = torch.Generator().manual_seed(num_scores + topk)
    scores = torch.randint(-3, 4, (4, num_scores), generator=generator).to(dtype)
    scores[0] = 1.0  # one long tie
    expected = [first_of_ties(row, topk) for row in scores.tolist()]
    assert top_indices(scores, topk).tolist() == expected


def test_negative_zero_ties_with_zero():
    scores = torch.tensor([[-1.0, 0.0, -0.0, 0.0, -0.0, -2.0]])
    assert top_indices(scores, 2).tolist() == [[1, 2]]


def test_infinite_scores_stay_in_range():
    scores = torch.full((1, 37), -torch.inf)
    assert top_indices(scores, 3).tolist() == [[0, 1, 2]]
    scores[0, 30] = torch.inf
    assert top_indices(scores, 3).tolist() == [[0, 1, 30]]


def make_options(topk, num_routed):
    return MiTAOptions(topk, num_routed, scale=1.0, landmark_scale=1.0, shared=True)


@pytest.mark.parametrize('tokens', [10, 193, 1025])
def test_select_experts_equals_the_definition(tokens):
    key, landmarks = torch.randn(2, 3, tokens, 16), torch.randn(2, 3, 9, 16)
    experts = select_experts(key, landmarks, 20)
    topk = min(20, tokens)
    assert experts.shape == (2, 3, 9, topk) and experts.dtype == torch.int64
    assert torch.equal(experts, reference.select_keys(key, landmarks, make_options(topk, 1)))
    assert (experts.diff(dim=-1) > 0).all()


@pytest.mark.parametrize('num_routed', [1, 3, 9])
def test_route_queries_equals_the_definition(num_routed):
    query, landmarks = torch.randn(2, 3, 50, 16), torch.randn(2, 3, 9, 16)
    routes = route_queries(query, landmarks, num_routed)
    assert routes.shape == (2, 3, 50, num_routed)
    assert torch.equal(routes, reference.route(query, landmarks, make_options(1, num_routed)))


@pytest.mark.parametrize('num_routed', [1, 2])
def test_routing_ties_go_to_the_lowest_landmark(num_routed):
    query, landmarks = torch.randn(1, 1, 20, 8), torch.randn(1, 1, 3, 8)
    landmarks = landmarks.repeat_interleave(2, dim=2)  # landmarks 0 and 1 tie, 2 and 3, 4 and 5
    routes = route_queries(query, landmarks, num_routed)
    assert (routes[..., 0] % 2 == 0).all()
    if num_routed == 2:
        assert torch.equal(routes[..., 1], routes[..., 0] + 1)
