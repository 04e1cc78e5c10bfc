"""nn.MultiheadAttention as self-attention, alone and inside PyTorch's transformer layers."""

import pytest
import torch
from torch import nn

from mita_seg import restore_attention, swap_attention
from support.swap_contract import EVERYTHING, USUAL, SwapContract


class SmallViT(nn.Module):
    """Patches, a class token if asked for, and PyTorch's encoder layers."""

    def __init__(self, batch_first, class_token=False):
        super().__init__()
        self.batch_first = batch_first
        self.patches = nn.Conv2d(3, 32, 16, 16)
        self.class_token = nn.Parameter(torch.zeros(1, 1, 32)) if class_token else None
        layer = nn.TransformerEncoderLayer(
            32, 2, 64, dropout=0.0, activation='gelu', batch_first=batch_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, images):
        x = self.patches(images).flatten(2).mT
        if self.class_token is not None:
            x = torch.cat((self.class_token.expand(len(x), -1, -1), x), 1)
        if self.batch_first:
            return self.encoder(x)
        return self.encoder(x.transpose(0, 1)).transpose(0, 1)


class TestBatchFirst(SwapContract):
    sizes = ((64, 64), (32, 32))

    def build(self):
        return SmallViT(batch_first=True)


class TestSequenceFirst(TestBatchFirst):
    def build(self):
        return SmallViT(batch_first=False)


@pytest.fixture
def layer():
    return nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True).eval()


@pytest.mark.parametrize('batch_first', [True, False])
def test_a_module_that_returns_the_patch_map_gives_the_grid_of_every_image(batch_first):
    model = SmallViT(batch_first, class_token=True).eval()
    told = swap_attention(SmallViT(batch_first, class_token=True).eval(), USUAL, grid='patches')
    told.load_state_dict(model.state_dict())
    for size in ((32, 96), (96, 32), (64, 64)):
        images = torch.randn(2, 3, *size)
        swap_attention(model, USUAL, grid=(size[0] // 16, size[1] // 16, 1))
        assert torch.equal(told(images), model(images))


def test_the_fast_path_of_an_encoder_layer_is_left_and_taken_again(layer, monkeypatch):
    calls = []
    fast = torch._transformer_encoder_layer_fwd
    monkeypatch.setattr(
        torch, '_transformer_encoder_layer_fwd', lambda *args: calls.append(1) or fast(*args)
    )
    x = torch.randn(2, 16, 32)
    with torch.no_grad():
        before = layer(x)
        assert calls, 'PyTorch no longer takes its fast path here: the test shows nothing'
        calls.clear()
        swapped = swap_attention(layer, USUAL)(x)
        assert not calls and (swapped - before).abs().max() > 1e-3
        assert torch.equal(restore_attention(layer)(x), before) and calls


def test_queries_and_keys_may_carry_positions_that_values_do_not():
    attention = nn.MultiheadAttention(32, 2, bias=False).eval()
    x, positions = torch.randn(16, 2, 32), torch.randn(16, 1, 32)
    expected, _ = attention(x + positions, x + positions, x, need_weights=False)
    swap_attention(attention, EVERYTHING)
    query = x + positions
    torch.testing.assert_close(attention(query, query, x, need_weights=False)[0], expected)


def test_unbatched_tokens_are_taken():
    attention = nn.MultiheadAttention(32, 2).eval()
    x = torch.randn(16, 32)
    expected, _ = attention(x, x, x, need_weights=False)
    swap_attention(attention, EVERYTHING)
    torch.testing.assert_close(attention(x, x, x, need_weights=False)[0], expected)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({}, 'attention weights to return: pass need_weights=False'),
        ({'need_weights': False, 'attn_mask': torch.zeros(16, 16)}, 'no mask, got attn_mask'),
        (
            {'need_weights': False, 'key_padding_mask': torch.zeros(2, 16, dtype=torch.bool)},
            'no mask, got key_padding_mask',
        ),
        ({'need_weights': False, 'is_causal': True}, 'not causal, got is_causal=True'),
    ],
)
def test_calls_that_it_cannot_serve_are_refused(options, message):
    attention = swap_attention(nn.MultiheadAttention(32, 2, batch_first=True), USUAL)
    x = torch.randn(2, 16, 32)
    with pytest.raises(ValueError, match=message):
        attention(x, x, x, **options)


def test_cross_attention_is_refused():
    attention = swap_attention(nn.MultiheadAttention(32, 2, batch_first=True), USUAL)
    x, other = torch.randn(2, 2, 16, 32)
    with pytest.raises(ValueError, match='swapped attention is no cross-attention'):
        attention(x, other, other, need_weights=False)
    with pytest.raises(ValueError, match='is cross-attention: kdim=8 and vdim=32'):
        swap_attention(nn.MultiheadAttention(32, 2, kdim=8), USUAL)
    decoder = nn.TransformerDecoderLayer(32, 2)
    with pytest.raises(ValueError, match=r'^multihead_attn is the cross-attention.*layers='):
        swap_attention(decoder, USUAL)
    swap_attention(decoder, USUAL, layers='self_attn')
    assert type(decoder.multihead_attn) is nn.MultiheadAttention


def test_extra_keys_are_refused():
    for options in ({'add_bias_kv': True}, {'add_zero_attn': True}):
        with pytest.raises(ValueError, match='extra keys'):
            swap_attention(nn.MultiheadAttention(32, 2, **options), USUAL)


def test_attention_dropout_is_refused_in_training_alone():
    attention = swap_attention(nn.MultiheadAttention(32, 2, dropout=0.1, batch_first=True), USUAL)
    x = torch.randn(2, 16, 32)
    with pytest.raises(ValueError, match=r'got dropout=0.1: set .* dropout to 0'):
        attention(x, x, x, need_weights=False)
    attention.eval()
    assert attention(x, x, x, need_weights=False)[0].shape == x.shape


def test_padded_batches_that_the_encoder_packs_are_refused():
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
    encoder = swap_attention(nn.TransformerEncoder(layer, 1).eval(), USUAL)
    padding = torch.arange(16).expand(2, -1) >= torch.tensor([[16], [9]])
    with torch.no_grad(), pytest.raises(ValueError, match='nested tensors|key_padding_mask'):
        encoder(torch.randn(2, 16, 32), src_key_padding_mask=padding)


@pytest.mark.parametrize(
    ('grid', 'error', 'message'),
    [
        (None, ValueError, r'grid must be given.*15 tokens are not a square'),
        ((3, 4), ValueError, r'makes 12 tokens, but the attention got 15'),
        ((2, 7), ValueError, r'grid=\(2, 7\) with 0 leading special tokens makes 14'),
        ((3, 4, 5), ValueError, 'with 5 leading special tokens makes 17'),
        ((3, 0), ValueError, r'grid must be two ints of at least 1, got \(3, 0\)'),
        ((3, 4, -1), ValueError, 'grid must end in a number of special tokens'),
        ((3,), TypeError, r'grid must be \(h, w\)'),
        ((3, 5.0), TypeError, r'grid must be'),
        ((3, 4, 1.0), ValueError, 'number of special tokens'),
        (15, TypeError, r'grid must be'),
        ('stem', ValueError, "name a module of the model, got 'stem'"),
        ('linear1', ValueError, r'linear1 must return a patch map \[B, C, h, w\]'),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(layer, grid, error, message):
    with pytest.raises(error, match=message):
        model = nn.Sequential()
        model.add_module('linear1', nn.Linear(32, 32))
        model.add_module('layer', layer)
        swap_attention(model, USUAL, grid=grid)(torch.randn(2, 15, 32))
