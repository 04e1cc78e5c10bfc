"""What MiTA attention keeps of full attention, against figures written out."""

import pytest
import torch

from mita_seg import analysis
from mita_seg.layers import FullAttention, MiTAAttention
from mita_seg.ops import pool_landmarks
from mita_seg.ops.options import Pooling, make_options
from mita_seg.visualization.recall_curves import draw_recall

GRID, LANDMARKS, START, TOKENS = (5, 4), (2, 3), 1, 23


def recorded(**options):
    options = {'topk': 4, 'num_routed': 1, 'shared': True, **options}
    query, key = torch.randn(2, 2, 3, TOKENS, 8).unbind()
    landmarks = pool_landmarks(query, GRID, LANDMARKS, start=START)
    filled_in = make_options((TOKENS, 8), 6, **options)._replace(
        pooling=Pooling(*GRID, *LANDMARKS, START)
    )
    return analysis.Routing(query, key, landmarks, filled_in, grid=GRID, start=START)


@pytest.mark.parametrize(
    'change',
    [
        {},
        {'topk': 0},
        {'shared': False},
        {'num_routed': 2},
        {'shared': False, 'remainder': True},
    ],
)
def test_figures_are_those_of_rows_written_out(change, monkeypatch):
    monkeypatch.setattr(analysis.arrays, '_NUMBERS_AT_ONCE', 7 * 6 * TOKENS)  # a few queries
    routing = recorded(**change)
    found = analysis.attention_recall(routing)
    full = (8**-0.5 * routing.query @ routing.key.mT).softmax(-1)
    mita = torch.from_numpy(analysis.attention_rows(routing, range(TOKENS)))
    expected = torch.minimum(full, mita).sum(-1).mean(-1)
    torch.testing.assert_close(found.overlap, expected)
    recall = torch.from_numpy(analysis.recall(routing)).mean(-1)
    torch.testing.assert_close(found.routed, recall)
    shared = torch.from_numpy(analysis.shared_share(routing)).mean(-1)
    torch.testing.assert_close(found.shared, shared)
    topk, num_routed = routing.options.topk, routing.options.num_routed
    assert found.blind[0, 0] == pytest.approx(min(1, topk * num_routed / TOKENS))


def test_all_keys_without_a_shared_expert_are_full_attention():
    found = analysis.attention_recall(recorded(topk=TOKENS, shared=False))
    for figure in (found.routed, found.overlap, found.common, found.common_keys):
        torch.testing.assert_close(figure, torch.ones(2, 3))
    assert not found.shared.any()


def test_common_keys_and_their_norm():
    query = torch.ones(1, 1, 20, 8)
    key = torch.zeros(1, 1, 20, 8)
    key[0, 0, :, 0] = torch.linspace(0.5, 1.5, 20)
    key[0, 0, 3] = 10.0  # an outlier
    options = make_options((20, 8), 2, topk=1)
    found = analysis.attention_recall(analysis.Routing(query, key, query[:, :, :2], options))
    assert found.common_keys.item() == 1
    assert found.common_norm.item() == pytest.approx(10 * 8**0.5 / key.norm(dim=-1).median())
    assert found.common.item() > 0.99


class Model(torch.nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.layers = torch.nn.ModuleList(kind(16, 2, **options) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x, GRID, START)
        return x


def test_a_model_is_observed_by_layer_and_also_as_full_attention(tmp_path):
    model = Model(MiTAAttention, landmarks=(2, 2), topk=3)
    full = Model(FullAttention)
    full.load_state_dict(model.state_dict())
    x = torch.randn(2, TOKENS, 16)
    expected = model(x)
    with analysis.observe_attention_recall(model) as collected:
        assert torch.equal(model(x), expected)
        model(x[:1])
    recall = {layer: analysis.mean_recall(passes) for layer, passes in collected.items()}
    assert list(recall) == ['layers.0', 'layers.1']
    assert len(collected['layers.0']) == 2 and len(recall['layers.0']['overlap']) == 2
    with analysis.observe_attention_recall(model, as_full=True) as collected:
        assert torch.equal(model(x), full(x))
    as_full = {layer: analysis.mean_recall(passes) for layer, passes in collected.items()}
    assert as_full['layers.1'] != recall['layers.1']  # other inputs
    assert torch.equal(model(x), expected)
    assert draw_recall(recall, tmp_path / 'recall.png').stat().st_size > 10_000


@pytest.mark.slow
def test_long_maps_need_little_memory():
    query, key = torch.randn(2, 1, 1, 3137, 8).unbind()
    options = make_options((3137, 8), 64, topk=64)
    routing = analysis.Routing(query, key, query[:, :, :64], options)
    found = analysis.attention_recall(routing)
    assert 0 < found.overlap.item() < 1
