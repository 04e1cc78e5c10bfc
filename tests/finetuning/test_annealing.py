"""From full attention to MiTA attention in stages, for any model."""

import copy
import itertools

import pytest
import torch
from torch import nn

from mita_seg.analysis.observe import mita_layers
from mita_seg.finetuning import Annealing, read_stages, with_full_attention, write_stages
from mita_seg.layers import FullAttention, MiTAAttention, TransformerBlock
from mita_seg.swap import restore_attention, swap_attention

GRID = (6, 7)


class Encoder(nn.Module):
    def __init__(self, attention=MiTAAttention, **options):
        super().__init__()
        self.blocks = nn.ModuleList(
            TransformerBlock(16, attention(16, 2, **options)) for _ in range(2)
        )

    def forward(self, x):
        for block in self.blocks:
            x = block(x, GRID, 1)
        return x


MITA = {'landmarks': (2, 2), 'topk': 3}


@pytest.fixture
def x():
    return torch.randn(2, 43, 16)


def with_weights_of(model, **options):
    full = Encoder(FullAttention)
    full.load_state_dict(model.state_dict())
    return full


def test_the_first_iteration_is_full_attention_to_the_bit(x):
    model = Encoder(**MITA)
    full = with_weights_of(model)
    assert not torch.allclose(model(x), full(x))
    Annealing(model, end=8).step(0)
    assert torch.equal(model(x), full(x))


def test_outputs_go_from_full_to_mita_attention_without_a_jump(x):
    model = Encoder(**MITA)
    last, first = model(x), with_weights_of(model)(x)
    annealing = Annealing(model, end=80, largest=43, weakest=-9)
    outputs = []
    for iteration in range(90):
        if annealing.step(iteration):
            outputs.append(model(x).detach())
    assert len(outputs) == 9 and annealing.finished
    assert torch.equal(outputs[0], first) and torch.equal(outputs[-1], last)
    steps = [(after - before).norm() for before, after in itertools.pairwise(outputs)]
    assert steps[0] < 0.02 * (last - first).norm()  # all keys; the shared expert hardly counts
    assert max(steps) < 0.7 * (last - first).norm()


def test_stages_share_the_interval_and_begin_with_full_attention():
    annealing = Annealing(Encoder(**MITA), begin=10, end=50, num_stages=4)
    changes = [iteration for iteration in range(60) if annealing.step(iteration)]
    assert changes == [0, 20, 30, 40, 50]


def test_keys_fall_geometrically_to_those_of_each_layer():
    model = Encoder(**MITA)
    model.blocks[1].attn.topk = 300
    annealing = Annealing(model, end=40, num_stages=4, largest=1024, weakest=-6)
    found = []
    for iteration in range(0, 50, 10):
        annealing.step(iteration)
        found.append([block.attn.stage for block in model.blocks])
    assert found[0] == [(None, 0)] * 2 and found[4] == [None] * 2
    assert [stage.topk for stage, _ in found[1:4]] == [1024, 147, 21]
    assert [stage.topk for _, stage in found[1:4]] == [1024, 680, 452]
    assert [stage.shared_offset for stage, _ in found[1:4]] == [-6, -2, 0]


def test_values_may_be_given():
    model = Encoder(**MITA)
    annealing = Annealing(model, end=30, values=[20, 2])
    annealing.step(10)
    assert model.blocks[0].attn.stage.topk == 20
    annealing.step(20)
    assert model.blocks[0].attn.stage.topk == 3  # the layer's own
    assert '3 keys, offset 0.00' in annealing.describe()


@pytest.mark.parametrize(
    'options',
    [{'topk': 0}, {'shared': False}, {'num_routed': 2}, {'shared': False, 'remainder': True}],
)
def test_every_kind_of_layer_is_annealed(x, options):
    model = Encoder(**{**MITA, **options})
    full = with_weights_of(model)(x)
    annealing = Annealing(model, end=3, num_stages=2, largest=64, weakest=-9)
    annealing.step(0)
    assert torch.equal(model(x), full)
    annealing.step(2)
    # All keys, counted once or twice, and the shared expert at exp(-9).
    torch.testing.assert_close(model(x), full, atol=0.01, rtol=0.01)


def test_a_swapped_model_is_annealed(x):
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True), 2)
    expected = model(x[:, :42])
    swap_attention(model, MITA, grid=GRID)
    annealing = Annealing(model, end=8)
    annealing.step(0)
    torch.testing.assert_close(model(x[:, :42]), expected)
    keys = list(model.state_dict())
    annealing.step(8)
    assert list(restore_attention(model).state_dict()) == keys


def test_copies_compute_the_stage_and_state_dicts_say_nothing(x):
    model = Encoder(**MITA)
    state = model.state_dict()
    annealing = Annealing(model, end=8)
    annealing.step(3)
    other = copy.deepcopy(model)
    assert torch.equal(other(x), model(x)) and list(other.state_dict()) == list(state)
    annealing.step(8)
    assert not torch.equal(other(x), model(x))


def test_stages_are_plain_data_that_a_model_takes_back(x):
    model = Encoder(**MITA)
    Annealing(model, end=8).step(3)
    stages = read_stages(model)
    assert stages['blocks.0.attn'].keys() == {'topk', 'shared_offset'}
    other = Encoder(**MITA)
    other.load_state_dict(model.state_dict())
    write_stages(other, stages)
    assert torch.equal(other(x), model(x))
    write_stages(other, {})
    assert read_stages(other) == {}
    with pytest.raises(ValueError, match='got one of blocks.7.attn'):
        write_stages(other, {'blocks.7.attn': stages['blocks.0.attn']})


def test_with_full_attention_but_some(x):
    model = Encoder(**MITA)
    mita, full = model(x), with_weights_of(model)(x)
    with with_full_attention(model):
        assert torch.equal(model(x), full)
        with with_full_attention(model, but=['blocks.1.attn']):
            assert not torch.equal(model(x), full) and not torch.equal(model(x), mita)
        assert torch.equal(model(x), full)
    assert torch.equal(model(x), mita)
    with pytest.raises(ValueError, match='but must be among'), with_full_attention(model, ['1']):
        pass


def test_analysis_and_export_see_the_stage(x):
    model = Encoder(**MITA)
    (layer, _) = mita_layers(model).values()
    Annealing(model, end=8).step(0)
    options = layer.options(43, GRID, 1)
    assert options.topk == 43 and not options.shared
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'end': 0}, 'end must be at least 1'),
        ({'end': 5, 'begin': 5}, 'end must be at least 6'),
        ({'end': 5, 'num_stages': 13}, 'at most, got 13'),
        ({'end': 5, 'values': [8, 9]}, r'values must fall, got \[8, 9\]'),
        ({'end': 5, 'weakest': 1.0}, 'weakest must be at most 0, got 1.0'),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Annealing(Encoder(**MITA), **options)


def test_a_model_without_mita_attention_is_refused():
    with pytest.raises(ValueError, match='no MiTAAttention'):
        Annealing(Encoder(FullAttention), end=5)
