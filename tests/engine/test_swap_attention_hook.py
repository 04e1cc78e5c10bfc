"""MiTA put into an existing config by one key."""

from types import SimpleNamespace

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.registry import HOOKS, init_default_scope
from mmseg.registry import MODELS

from mita_seg.engine import SwapAttentionHook

STOCK = {
    'type': 'EncoderDecoder',
    'backbone': {
        'type': 'VisionTransformer',
        'img_size': (32, 48),
        'patch_size': 8,
        'embed_dims': 32,
        'num_layers': 2,
        'num_heads': 2,
        'out_indices': 1,
        'final_norm': True,
    },
    'decode_head': {
        'type': 'SegmenterMaskTransformerHead',
        'in_channels': 32,
        'channels': 32,
        'embed_dims': 32,
        'num_layers': 1,
        'num_heads': 2,
        'num_classes': 3,
        'dropout_ratio': 0.0,
    },
    'test_cfg': {'mode': 'whole'},
}


SWAP = {'type': 'SwapAttentionHook', 'attn_cfg': {'landmarks': (2, 3), 'topk': 5}}


@pytest.fixture
def runner():
    init_default_scope('mmseg')
    torch.manual_seed(0)
    return SimpleNamespace(model=MODELS.build(STOCK))


def test_every_layer_of_a_stock_segmentor_is_swapped_and_keeps_its_weights(runner):
    model, images = runner.model.eval(), torch.randn(1, 3, 32, 48)
    names = list(model.state_dict())
    before = model(images, mode='tensor')
    HOOKS.build(SWAP).before_run(runner)
    assert sum(hasattr(module, 'mita') for module in model.modules()) == 3
    assert 'topk=5' in str(model)
    assert list(model.state_dict()) == names
    after = model(images, mode='tensor')
    assert after.shape == before.shape and not torch.allclose(after, before)


def test_a_wrong_option_is_refused_when_the_run_begins(runner):
    hook = SwapAttentionHook({'landmarks': (2, 3), 'top_k': 5})
    with pytest.raises((TypeError, ValueError), match='top_k'):
        hook.before_run(runner)
