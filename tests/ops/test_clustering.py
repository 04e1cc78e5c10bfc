"""The definition is compared in tests/properties/test_layer.py."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import cosine_similarity, normalize

from mita_seg.ops import cluster_landmarks, pool_landmarks


@pytest.fixture
def query():
    torch.manual_seed(0)
    return torch.randn(2, 3, 35, 8, dtype=torch.float64)


@pytest.fixture
def landmarks(query):
    return pool_landmarks(query, (5, 7), (2, 3))


def largest_cosines(query, landmarks):
    return (normalize(query, dim=-1) @ normalize(landmarks, dim=-1).mT).amax(-1)


def test_queries_come_nearer_to_landmarks_with_every_step(query, landmarks):
    near = [
        largest_cosines(query, cluster_landmarks(query, landmarks, steps=steps)).mean()
        for steps in range(4)
    ]
    assert near[0] == pytest.approx(largest_cosines(query, landmarks).mean())
    assert near == sorted(near) and near[3] > near[0] + 0.1


@pytest.mark.parametrize('steps', [0, 2])
def test_landmarks_of_a_head_have_equal_norms(steps, query, landmarks):
    norms = cluster_landmarks(query, landmarks, steps=steps).norm(dim=-1)
    torch.testing.assert_close(norms, norms[..., :1].expand_as(norms))
    if not steps:
        torch.testing.assert_close(norms[..., 0], landmarks.norm(dim=-1).mean(-1))


def test_without_steps_directions_stay(query, landmarks):
    cosines = cosine_similarity(cluster_landmarks(query, landmarks, steps=0), landmarks, dim=-1)
    torch.testing.assert_close(cosines, torch.ones_like(cosines))


def test_a_landmark_without_queries_stays(query):
    landmarks = torch.zeros(2, 3, 2, 8, dtype=torch.float64)
    landmarks[:, :, 0, 0], landmarks[:, :, 1, 0] = 1, -1
    query = query.abs()
    moved = cluster_landmarks(query, landmarks, steps=1)
    expected = torch.stack([query.mean(2), landmarks[:, :, 1]], 2)
    norms = expected.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(moved, expected / norms * norms.mean(2, keepdim=True))


def test_gradients_are_those_of_means_and_norms(query, landmarks):
    inputs = [each[:1, :1].clone().requires_grad_() for each in (query, landmarks)]
    assert gradcheck(lambda q, marks: cluster_landmarks(q, marks, steps=2), inputs)


def test_float16_holds_many_large_queries():
    query = torch.full((1, 1, 5000, 16), 60.0).half()
    moved = cluster_landmarks(query, query[:, :, :2], steps=1)
    torch.testing.assert_close(moved, query[:, :, :2])


def test_bad_arguments_are_refused(query, landmarks):
    with pytest.raises(ValueError, match='steps must be at least 0, got -1'):
        cluster_landmarks(query, landmarks, steps=-1)
    with pytest.raises(ValueError, match='landmarks must agree with query in B, H and d'):
        cluster_landmarks(query, landmarks[:, :2], steps=1)
