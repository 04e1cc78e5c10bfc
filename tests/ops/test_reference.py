"""The reference against the definition written out query by query, and its special cases."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from mita_seg.ops import mita_attention
from support.operator_cases import CASES, gradients, make_inputs


def written_out(query, key, value, landmarks, topk, num_routed, shared, scale, landmark_scale):
    """One head, one query at a time: lists of logits and values, and one softmax over them."""
    scores = landmarks @ key.T
    rows = []
    for q in query:
        logits, values = [], []
        if shared:
            for j, landmark in enumerate(landmarks):
                logits.append(landmark_scale * (q @ landmark))
                values.append((scale * scores[j]).softmax(0) @ value)
        closeness = (landmarks @ q).tolist()
        nearest = sorted(range(len(landmarks)), key=lambda j: -closeness[j])[:num_routed]
        for j in nearest if topk else []:
            row = scores[j].tolist()
            for n in sorted(range(len(key)), key=lambda n: -row[n])[:topk]:
                logits.append(scale * (q @ key[n]))
                values.append(value[n])
        rows.append(torch.stack(logits).softmax(0) @ torch.stack(values))
    return torch.stack(rows)


@pytest.mark.parametrize('case', CASES)
def test_equals_the_definition_query_by_query(case):
    tensors, arguments = make_inputs(case, requires_grad=False)
    result = mita_attention(
        *tensors, **arguments, scale=0.3, landmark_scale=0.2, backend='reference'
    )
    for head_result, *head in zip(result[-1], *(tensor[-1] for tensor in tensors), strict=True):
        expected = written_out(*head, **arguments, scale=0.3, landmark_scale=0.2)
        torch.testing.assert_close(head_result, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize('backend', ['reference', 'tiled', 'masked'])
def test_route_only_with_every_key_is_full_attention(backend):
    (query, key, value, landmarks), _ = make_inputs('usual')
    result = mita_attention(
        query, key, value, landmarks, topk=key.shape[2], shared=False, backend=backend
    )
    expected = scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(result, expected, atol=1e-12, rtol=0)
    tensors = (query, key, value)
    for grad, wanted in zip(gradients(result, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(grad, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize('backend', ['reference', 'tiled', 'masked'])
def test_compress_only_is_agent_attention(backend):
    (query, key, value, landmarks), _ = make_inputs('usual')
    result = mita_attention(query, key, value, landmarks, topk=0, backend=backend)
    agents = scaled_dot_product_attention(landmarks, key, value)
    expected = scaled_dot_product_attention(query, landmarks, agents)
    torch.testing.assert_close(result, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize('backend', ['reference', 'tiled', 'masked'])
def test_every_key_makes_the_routing_irrelevant(backend):
    (query, key, value, landmarks), _ = make_inputs('usual')
    landmarks = landmarks.detach().clone()
    results = []
    for order in (torch.arange(9), torch.arange(9).flip(0)):  # ties aside, routes change places
        shuffled = landmarks[:, :, order]
        results.append(
            mita_attention(query, key, value, shuffled, topk=key.shape[2], backend=backend)
        )
    torch.testing.assert_close(*results, atol=1e-12, rtol=0)


def test_default_scales_are_those_of_the_paper():
    tensors, arguments = make_inputs('usual', requires_grad=False)
    result = mita_attention(*tensors, **arguments)
    dim = tensors[0].shape[-1]
    expected = mita_attention(*tensors, **arguments, scale=dim**-0.5, landmark_scale=dim**-0.5)
    assert torch.equal(result, expected)
    smoothed = mita_attention(*tensors, **arguments, landmark_scale=1 / dim)
    assert not torch.allclose(result, smoothed)


def test_route_only_gives_landmarks_no_gradient():
    tensors, arguments = make_inputs('route_only')
    *_, landmark_grad = gradients(mita_attention(*tensors, **arguments), tensors)
    assert landmark_grad is None or not landmark_grad.any()
