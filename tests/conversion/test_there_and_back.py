"""MMSegmentation's layout and ours hold the same weights, bit for bit."""

import pytest
import torch

from mita_seg.conversion import convert, detect_source
from support.conversion_cases import mmseg, ours


@pytest.mark.parametrize('make', [ours, mmseg])
def test_there_and_back_is_lossless(make):
    weights = make()
    target = {'mita_seg': 'mmseg', 'mmseg': 'mita_seg'}
    source = detect_source(weights)
    there = convert(weights, target=target[source])
    back = convert(there.weights, target=source).weights
    assert weights.keys() == back.keys() != there.weights.keys()
    assert all(torch.equal(weights[name], back[name]) for name in weights)


def test_stock_attention_without_biases_there_and_back():
    weights = {n: w for n, w in mmseg().items() if 'attn.attn' not in n or n.endswith('weight')}
    converted = convert(weights)
    assert not converted.weights['layers.0.attn.proj.bias'].any()
    assert converted.settings['qkv_bias'] is False
    back = convert(converted.weights, target='mmseg').weights
    assert weights.keys() == back.keys()
    assert all(torch.equal(weights[name], back[name]) for name in weights)


def test_output_bias_alone_gets_a_zero_bias_beside_it_for_the_stock_class():
    weights = {n: w for n, w in ours().items() if not n.endswith('qkv.bias')}
    conversion = convert(weights, target='mmseg')
    assert not conversion.weights['layers.0.attn.attn.in_proj_bias'].any()
    assert conversion.weights['layers.0.attn.attn.out_proj.bias'].any()
    assert any('layers.0.attn.qkv.bias is added as zeros' in note for note in conversion.notes)
