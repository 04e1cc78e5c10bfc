import numpy as np
import pytest
import torch

from mita_seg import analysis
from mita_seg.layers import FullAttention, MiTAAttention
from mita_seg.ops import mita_attention, pool_landmarks
from mita_seg.ops.options import Pooling, make_options

GRID, LANDMARKS, START, TOKENS = (5, 4), (2, 3), 1, 23  # a class token, 20 patches, 2 class queries


def recorded(**options):
    """A record of random tokens, and the values with what the operator makes of them."""
    options = {'topk': 4, 'num_routed': 1, 'landmark_scale': 0.3, 'shared': True, **options}
    query, key, value = torch.randn(3, 2, 3, TOKENS, 8).unbind()
    landmarks = pool_landmarks(query, GRID, LANDMARKS, start=START)
    filled_in = make_options((TOKENS, 8), 6, **options)
    filled_in = filled_in._replace(pooling=Pooling(*GRID, *LANDMARKS, START))
    routing = analysis.Routing(query, key, landmarks, filled_in, grid=GRID, start=START)
    return routing, value, mita_attention(query, key, value, landmarks, **options)


REMAINDER = {'shared': False, 'remainder': True}
VARIANTS = [
    {}, {'topk': 0}, {'shared': False}, {'num_routed': 2}, {'topk': 99}, REMAINDER
]  # fmt: skip


@pytest.mark.parametrize('change', VARIANTS)
def test_rows_times_values_are_the_attention(change):
    routing, value, expected = recorded(**change)
    rows = torch.from_numpy(analysis.attention_rows(routing, range(TOKENS)))
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 3, TOKENS))
    torch.testing.assert_close(rows @ value, expected, atol=1e-5, rtol=1e-4)
    assert routing.special_tokens == [0, 21, 22]
    special = torch.from_numpy(analysis.special_token_rows(routing))
    torch.testing.assert_close(special, rows[:, :, [0, 21, 22]])


@pytest.mark.parametrize('change', VARIANTS)
def test_shares_are_those_of_logits_written_out(change, monkeypatch):
    monkeypatch.setattr(analysis.arrays, '_NUMBERS_AT_ONCE', 7 * 6 * TOKENS)  # a few queries
    routing, _, _ = recorded(**change)
    share, recall = analysis.shared_share(routing), analysis.recall(routing)
    query, key, landmarks = (x[1, 2] for x in (routing.query, routing.key, routing.landmarks))
    for n in range(TOKENS):
        logits = 8**-0.5 * key @ query[n]
        keys = [i for e in routing.routes[1, 2, n] for i in routing.experts[1, 2, e].tolist()]
        routed = logits[keys].exp().sum()
        shared = (0.3 * landmarks @ query[n]).exp().sum() if routing.options.shared else 0 * routed
        if routing.options.remainder:
            landmark = landmarks[routing.routes[1, 2, n, 0]]
            outside = [i for i in range(TOKENS) if i not in keys]
            seen = 8**-0.5 * key[outside] @ landmark
            tangent = 8**-0.5 * (query[n] - landmark) @ (seen.softmax(0) @ key[outside])
            shared = (seen.logsumexp(0) + tangent).exp()
        assert share[1, 2, n] == pytest.approx((shared / (shared + routed)).item(), abs=1e-5)
        expected = logits.softmax(0)[sorted(set(keys))].sum().item()
        assert recall[1, 2, n] == pytest.approx(expected, abs=1e-5)


def test_maps_and_use_follow_routes_and_experts():
    routing, _, _ = recorded()
    experts = analysis.expert_map(routing)
    assert experts.shape == (2, 3, *GRID)
    nearest = (routing.query[0, 1] @ routing.landmarks[0, 1].T).argmax(-1)
    assert np.array_equal(experts[0, 1].ravel(), nearest[START : START + 20])
    keys, use = analysis.expert_keys(routing), analysis.token_use(routing)
    assert keys.shape == (2, 3, 6, 4)
    assert all(use[1, 0, n] == (keys[1, 0] == n).sum() for n in range(TOKENS))


def test_windows_are_those_of_the_pooling():
    routing, _, _ = recorded()
    patches = routing.query[0, 0, START : START + 20].unflatten(0, GRID)
    for landmark, (top, left, bottom, right) in zip(
        routing.landmarks[0, 0], analysis.landmark_windows(routing), strict=True
    ):
        torch.testing.assert_close(landmark, patches[top:bottom, left:right].mean((0, 1)))


@pytest.fixture
def model():
    layers = {name: MiTAAttention(16, 2, landmarks=(2, 2), topk=3) for name in ('first', 'last')}
    return torch.nn.ModuleDict({**layers, 'full': FullAttention(16, 2)})


def test_recording_changes_nothing_and_leaves_nothing(model):
    tokens = torch.randn(1, 13, 16)
    before = {name: dict(vars(layer)) for name, layer in model.items()}
    expected = model['last'](tokens, (3, 4), 1)
    with analysis.record_routing(model, ['last']) as records:
        for name in ('first', 'last', 'last'):
            out = model[name](tokens, (3, 4), 1)
        assert torch.equal(out, expected)
    model['last'](tokens, (3, 4), 1)
    assert {name: dict(vars(layer)) for name, layer in model.items()} == before
    assert list(records) == ['last'] and len(records['last']) == 2
    routing = records['last'][0]
    assert not routing.query.requires_grad and not routing.landmarks.requires_grad
    assert (routing.grid, routing.start, routing.special_tokens) == ((3, 4), 1, [0])


def test_layers_that_are_not_there_are_refused(model):
    with (
        pytest.raises(ValueError, match=r"among first, last, got 'full'"),
        analysis.record_routing(model, ['full']),
    ):
        pass
