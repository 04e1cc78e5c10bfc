import pytest
import torch

from mita_seg.analysis.gradients import gradient_figures, observe_gradients, split_gradient
from mita_seg.layers import FullAttention, MiTAAttention
from mita_seg.ops import pool_landmarks, pooled_mita_attention
from mita_seg.ops.options import make_options

OPTIONS = {'topk': 3, 'num_routed': 1, 'landmark_scale': 0.3, 'shared': True}


def pool(query):
    return pool_landmarks(query, (3, 4), (2, 2), start=1)


@pytest.mark.parametrize(
    'change',
    [
        {},
        {'topk': 0},
        {'shared': False},
        {'num_routed': 2},
        {'topk': 99},
        {'shared': False, 'remainder': True},
    ],
)
def test_the_ways_add_up_to_the_gradient(change):
    options = {**OPTIONS, **change}
    inputs = torch.randn(3, 2, 2, 13, 8).unbind()
    inputs = [tensor.requires_grad_() for tensor in inputs]
    out = pooled_mita_attention(*inputs, (3, 4), (2, 2), start=1, **options)
    output_gradient = torch.randn_like(out)
    expected = torch.autograd.grad(out, inputs, output_gradient)
    filled_in = make_options((13, 8), 4, **options)
    parts = split_gradient(*inputs, output_gradient, pool, filled_in)
    sums = [
        parts['query_pooled'] + parts['query_direct'],
        parts['key_shared'] + parts['key_routed'],
        parts['value_shared'] + parts['value_routed'],
    ]
    for got, want in zip(sums, expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    figures = gradient_figures(parts)
    shares = {name: value for name, value in figures.items() if name.endswith('_share')}
    if not options['shared'] and not filled_in.remainder:
        assert set(shares.values()) == {0.0}
    elif not options['topk']:
        assert shares['key_shared_share'] == shares['value_shared_share'] == 1
        assert 0 < shares['query_pooled_share'] < 1
    else:
        assert all(0 < share < 1 for share in shares.values())


def test_observation_sees_every_backward_pass_changes_nothing_and_ends():
    layers = {'first': MiTAAttention(16, 2, landmarks=(2, 2), topk=3)}
    model = torch.nn.ModuleDict({**layers, 'second': FullAttention(16, 2)})

    def gradients():
        model.zero_grad()
        tokens = torch.ones(1, 13, 16).cumsum(1)
        for layer in model.values():
            tokens = layer(tokens, (3, 4), 1)
        tokens.square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    expected = gradients()
    with observe_gradients(model) as collected:
        for _ in range(2):
            assert all(map(torch.equal, gradients(), expected))
    assert list(collected) == ['first'] and len(collected['first']) == 2
    assert collected['first'][0]['query_direct'] > 0
    assert 'attend' not in vars(model['first'])
