"""What swap_attention does alike for every family: layers, settings, our own models, refusals."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import mita_seg
from mita_seg import restore_attention, swap_attention
from mita_seg.layers import Attention, FullAttention, MiTAAttention, TransformerBlock
from support.swap_contract import EVERYTHING, USUAL

X = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    """Three layers of PyTorch's attention, as blocks.0, blocks.1 and head."""
    blocks = nn.ModuleList(
        nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True) for _ in range(2)
    )
    model = nn.ModuleDict(
        {'blocks': blocks, 'head': nn.MultiheadAttention(32, 2, batch_first=True)}
    )
    return model.eval()


def swapped_layers(model):
    return [name for name, module in model.named_modules() if hasattr(module, 'mita')]


@pytest.mark.parametrize(
    ('layers', 'names'),
    [
        (None, ['blocks.0.self_attn', 'blocks.1.self_attn', 'head']),
        ((0, -1), ['blocks.0.self_attn', 'head']),
        (1, ['blocks.1.self_attn']),
        (range(1, 3), ['blocks.1.self_attn', 'head']),
        ('blocks', ['blocks.0.self_attn', 'blocks.1.self_attn']),
        (['blocks.1', 0], ['blocks.0.self_attn', 'blocks.1.self_attn']),
        (['head'], ['head']),
        ([], []),
    ],
)
def test_layers_are_chosen_by_index_or_name(model, layers, names):
    swap_attention(model, USUAL, layers=layers)
    assert swapped_layers(model) == names


@pytest.mark.parametrize(
    ('layers', 'error', 'message'),
    [
        (3, ValueError, 'layers must be from -3 to 2 in this model, got 3'),
        ('block', ValueError, r"got 'block', which is or holds none \(there is blocks.0.self_attn"),
        (['blocks.0.linear1'], ValueError, "got 'blocks.0.linear1'"),
        ([1.0], TypeError, 'layers must hold ints and names of modules, got 1.0'),
        (True, TypeError, 'got True'),
    ],
)
def test_layers_that_are_not_there_are_refused(model, layers, error, message):
    with pytest.raises(error, match=message):
        swap_attention(model, USUAL, layers=layers)
    assert not swapped_layers(model)


@pytest.mark.parametrize(
    ('attn_cfg', 'error', 'message'),
    [
        ('MiTAAttention', TypeError, "attn_cfg must be a dict, got 'MiTAAttention'"),
        ({'type': 'Flash'}, ValueError, "'FullAttention', 'MiTAAttention' or a subclass.*'Flash'"),
        ({'type': nn.Linear}, ValueError, 'subclass of mita_seg.layers.Attention'),
        ({'topkk': 3}, TypeError, 'topkk'),
        ({'topk': -1}, ValueError, 'topk must be at least 0, got -1'),
        ({'topk': 0, 'shared': False}, ValueError, 'topk=0 with shared=False'),
        ({'qkv_bias': False}, ValueError, 'attn_cfg must leave qkv_bias to the model'),
        ({'attn_drop': 0.0}, ValueError, 'attn_cfg must leave attn_drop to the model'),
        ({'dwc': True}, ValueError, 'adds dwc.weight, dwc.bias'),
        ({'gate': True, 'qk_norm': True}, ValueError, 'must add no parameters.*q_norm.weight'),
    ],
)
def test_settings_that_do_not_fit_are_refused(model, attn_cfg, error, message):
    with pytest.raises(error, match=message):
        swap_attention(model, attn_cfg)
    assert not swapped_layers(model)


def test_settings_reach_every_layer_and_are_not_changed(model):
    attn_cfg = {'landmarks': (2, 3), 'topk': 4, 'num_routed': 2, 'landmark_scale': 'inverse_dim'}
    before = dict(attn_cfg)
    state = torch.get_rng_state()
    swap_attention(model, attn_cfg)
    assert torch.equal(torch.get_rng_state(), state), 'random numbers were used'
    assert attn_cfg == before
    attention = model['head'].mita.attention
    assert type(attention) is MiTAAttention
    assert (attention.landmarks, attention.topk, attention.num_routed) == ((2, 3), 4, 2)
    assert attention.landmark_scale == 1 / 16 and 'topk=4' in repr(model)


def test_an_attention_of_the_user_is_swapped_in():
    class LastToken(Attention):
        def attend(self, q, k, v, grid, start):
            return v[:, :, -1:].expand_as(v)

    attention = nn.MultiheadAttention(32, 2, batch_first=True).eval()
    swap_attention(attention, {'type': LastToken})
    out = attention(X, X, X, need_weights=False)[0]
    assert torch.equal(out, out[:, -1:].expand_as(out))


def test_a_model_without_attention_is_refused():
    with pytest.raises(ValueError, match='Linear has no self-attention that can be swapped'):
        swap_attention(nn.Linear(3, 3), USUAL)


class OwnAttention(nn.Module):
    """Attention that no family knows."""

    def __init__(self):
        super().__init__()
        self.num_heads = 2
        self.qkv = nn.Linear(32, 96)


class Pooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, 32))
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)


def encoder(attention):
    block = nn.ModuleDict({'attn': attention(), 'mlp': nn.Linear(32, 32)})
    return nn.ModuleDict({'patches': nn.Conv2d(3, 32, 16, 16), 'blocks': nn.ModuleList([block])})


def test_a_swap_that_would_leave_the_encoder_as_it_is_is_refused(model):
    whole = nn.ModuleDict({'encoder': encoder(OwnAttention), 'decoder': model})
    message = (
        r'leave out .*encoder.blocks.0.attn \(OwnAttention\), and swap decoder.blocks.0.self_att'
    )
    with pytest.raises(ValueError, match=message):
        swap_attention(whole, USUAL)
    assert not swapped_layers(whole)
    swap_attention(whole, USUAL, layers='decoder')
    assert len(swapped_layers(whole)) == 3


def test_unknown_attention_after_the_encoder_may_stay(model):
    model['after'] = OwnAttention()
    assert len(swapped_layers(swap_attention(model, USUAL))) == 3


def test_a_swap_of_attention_pooling_alone_is_refused():
    whole = encoder(OwnAttention)
    whole['head'] = Pooling()
    message = r'no self-attention .*OwnAttention.*; head.attention pools tokens .* in a Pooling'
    with pytest.raises(ValueError, match=message):
        swap_attention(whole, USUAL)
    with pytest.raises(ValueError, match=r'^head.attention pools tokens'):
        swap_attention(whole, USUAL, layers='head')
    assert not swapped_layers(whole)


@pytest.mark.parametrize('name', ['cross_attn', 'attn_pool'])
def test_attention_with_queries_of_its_own_is_refused_by_its_name(model, name):
    model[name] = nn.MultiheadAttention(32, 2)
    with pytest.raises(ValueError, match=f'^{name} .* going by its name'):
        swap_attention(model, USUAL)
    assert not swapped_layers(model)


def test_a_bias_table_is_refused_unless_other_layers_are_chosen(model):
    window = nn.Module()
    window.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
    model['window'] = window
    with pytest.raises(ValueError, match=r'window \(Module\) adds a table of relative position'):
        swap_attention(model, USUAL)
    with pytest.raises(ValueError, match="got 'window', which adds a table of relative position"):
        swap_attention(model, USUAL, layers='window')
    swap_attention(model, USUAL, layers='head')
    assert swapped_layers(model) == ['head']
    model['another'] = window
    model['third'] = copy.deepcopy(window)
    with pytest.raises(ValueError, match='add a table of relative position biases each, which'):
        swap_attention(model, USUAL)


def test_swapping_again_replaces_and_restoring_once_undoes_it_all(model):
    block = model['blocks'][0]
    expected = block(X)
    swap_attention(model, USUAL)
    swap_attention(model, {'type': 'FullAttention'}, layers=0)
    torch.testing.assert_close(block(X), expected, atol=1e-5, rtol=1e-4)
    assert isinstance(block.self_attn.mita.attention, FullAttention)
    restore_attention(restore_attention(model))
    assert torch.equal(block(X), expected) and not swapped_layers(model)


def test_weights_trained_after_the_swap_stay(model):
    attention = swap_attention(model, USUAL)['head']
    with torch.no_grad():
        attention.in_proj_weight.add_(1)
    weight = attention.in_proj_weight.clone()
    restore_attention(model)
    assert torch.equal(attention.in_proj_weight, weight)


def test_layers_of_ours_change_between_full_and_mita():
    block = TransformerBlock(32, FullAttention(32, 2, qk_norm=True, dwc=True)).eval()
    mita = TransformerBlock(32, MiTAAttention(32, 2, (2, 2), 3, qk_norm=True, dwc=True)).eval()
    mita.load_state_dict(block.state_dict())
    full = block(X, (3, 5), 1)
    for twin, attn_cfg in ((mita, {'type': 'FullAttention'}), (block, EVERYTHING)):
        original = twin(X, (3, 5), 1)
        swap_attention(twin, attn_cfg)
        torch.testing.assert_close(twin(X, (3, 5), 1), full, atol=1e-5, rtol=1e-4)
        assert torch.equal(restore_attention(twin)(X, (3, 5), 1), original)
    assert torch.equal(swap_attention(block, USUAL)(X, (3, 5), 1), mita(X, (3, 5), 1))


class Patches(nn.Module):
    """A patch embedding and one attention."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 16, 16)
        self.attn = nn.MultiheadAttention(32, 2, batch_first=True)

    def mix(self, x):
        return self.attn(x, x, x, need_weights=False)[0]

    def forward(self, images, with_cp=False):
        x = self.patches(images).flatten(2).mT
        return checkpoint(self.mix, x, use_reentrant=False) if with_cp else self.mix(x)


def test_recomputed_activations_see_the_grid_of_their_own_images():
    """Two sizes forward, then both backward, with checkpointing."""
    model = swap_attention(Patches(), USUAL, grid='patches')
    images = torch.randn(1, 3, 32, 96), torch.randn(1, 3, 64, 64)
    gradients = []
    for with_cp in (False, True):
        model.zero_grad()
        sum(model(image, with_cp).square().sum() for image in images).backward()
        gradients.append(model.attn.in_proj_weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_copy_of_the_attention_alone_does_not_keep_an_old_grid():
    model = swap_attention(Patches(), USUAL, grid='patches')
    model(torch.randn(1, 3, 64, 64))
    with pytest.raises(ValueError, match='grid is not known: patches has not run since the swap'):
        copy.deepcopy(model.attn)(X, X, X, need_weights=False)


def test_attention_shared_by_two_blocks_is_swapped_and_counted_once(model):
    model['again'] = model['head']
    with pytest.raises(ValueError, match='from -3 to 2 in this model, got 3'):
        swap_attention(model, USUAL, layers=3)
    assert swapped_layers(swap_attention(model, USUAL, layers=-1)) == ['head']
    assert not swapped_layers(restore_attention(model))


@pytest.mark.slow
def test_importing_the_package_is_light_and_swapping_needs_torch_alone():
    script = """
import sys
import mita_seg
assert 'torch' not in sys.modules
for name in ('mmcv', 'mmengine', 'mmseg', 'timm', 'torchvision', 'transformers'):
    sys.modules[name] = None  # importing it raises ImportError
from torch import nn
mita_seg.swap_attention(nn.MultiheadAttention(32, 2), dict(landmarks=(2, 2), topk=3))
"""
    subprocess.run([sys.executable, '-c', script], check=True)
    assert {'swap_attention', 'restore_attention', '__version__'} <= set(dir(mita_seg))
