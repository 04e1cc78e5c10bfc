"""Layer-wise decay of the learning rate for vision transformers."""

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.optim import build_optim_wrapper
from mmseg.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS

import mita_seg.models  # noqa: F401
from mita_seg.engine import ViTLayerDecayOptimWrapperConstructor

MITA = {'type': 'MiTAAttention', 'landmarks': (5, 5), 'topk': 25, 'dwc': True}
VIT_T = {'img_size': 64, 'embed_dims': 192, 'num_layers': 12, 'num_heads': 3, 'final_norm': True}


def segmentor(**backbone):
    return MODELS.build(
        {
            'type': 'EncoderDecoder',
            'backbone': {'type': 'MiTAVisionTransformer', **VIT_T, **backbone},
            'decode_head': {
                'type': 'MiTAMaskTransformerHead',
                'in_channels': 192,
                'num_layers': 2,
                'num_classes': 150,
            },
        }
    )


def build(model, **paramwise):
    return build_optim_wrapper(
        model,
        {
            'type': 'OptimWrapper',
            'optimizer': {'type': 'AdamW', 'lr': 1e-3, 'weight_decay': 0.05},
            'constructor': 'ViTLayerDecayOptimWrapperConstructor',
            'paramwise_cfg': paramwise,
        },
    )


def settings(model, **paramwise):
    """Learning rate and weight decay of each parameter, by its name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group['lr'], group['weight_decay'])
        for group in build(model, **paramwise).optimizer.param_groups
        for parameter in group['params']
    }


def test_scales_of_a_vit_t():
    model = segmentor(attn_cfg=MITA, num_registers=4, pre_norm=True)
    got = settings(model, decay_rate=0.65)
    assert got.keys() == dict(model.named_parameters()).keys()
    layers = {name: 13 for name in got}  # the final norm and the head
    for name in got:
        if name.startswith('backbone.layers.'):
            layers[name] = 1 + int(name.split('.')[2])
        elif name.startswith('backbone.') and not name.startswith('backbone.ln1.'):
            layers[name] = 0
    assert {layers[name] for name in got} == set(range(14))
    for name, (lr, _) in got.items():
        assert lr == pytest.approx(1e-3 * 0.65 ** (13 - layers[name])), name
    assert got['backbone.layers.11.attn.qkv.weight'][0] == pytest.approx(0.65e-3)
    for name in ('cls_token', 'pos_embed', 'register_tokens', 'patch_embed.projection.weight'):
        assert got[f'backbone.{name}'][0] == pytest.approx(1e-3 * 0.65**13)
    assert all(lr == 1e-3 for name, (lr, _) in got.items() if name.startswith('decode_head.'))


def test_weights_of_layers_decay_and_nothing_else():
    model = segmentor(attn_cfg=MITA, num_registers=4)
    got = settings(model, decay_rate=0.65)
    decaying = {name for name, (_, decay) in got.items() if decay}
    assert {decay for _, decay in got.values()} == {0, 0.05}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            decaying.remove(f'{name}.weight')
    assert not decaying  # no norm, bias, token or embedding


def test_stock_and_swapped_vits_are_known_too():
    stock = {'type': 'VisionTransformer', 'patch_bias': True}
    got = settings(segmentor(**stock), decay_rate=0.5)
    assert got['backbone.layers.0.attn.attn.in_proj_weight'] == pytest.approx((1e-3 / 2**12, 0.05))
    swapped = MODELS.build(
        {
            'type': 'mita_seg.models.build_swapped',
            'segmentor': 'EncoderDecoder',
            'attn_cfg': {'landmarks': (2, 2), 'topk': 5},
            'backbone': {**VIT_T, **stock},
            'decode_head': {
                'type': 'FCNHead',
                'in_channels': 192,
                'channels': 8,
                'num_classes': 3,
            },
            'layers': 'backbone',
        }
    )
    name = 'backbone.layers.11.attn.attn.in_proj_weight'
    assert settings(swapped, decay_rate=0.5)[name] == pytest.approx((0.5e-3, 0.05))


def test_frozen_parameters_are_left_out_and_the_wrapper_trains():
    model = segmentor(frozen_exclude=['ln1'])
    wrapper = build(model, layer_decay_rate=0.65, decay_type='layer_wise_vit', num_layers=12)
    trained = [p for group in wrapper.optimizer.param_groups for p in group['params']]
    assert trained and all(parameter.requires_grad for parameter in trained)
    before = model.decode_head.cls_emb.detach().clone()
    with wrapper.optim_context(model):
        loss = model(torch.randn(1, 3, 64, 64)).square().mean()
    wrapper.update_params(loss)
    assert not torch.equal(model.decode_head.cls_emb, before)


def test_is_registered():
    found = OPTIM_WRAPPER_CONSTRUCTORS.get('ViTLayerDecayOptimWrapperConstructor')
    assert found is ViTLayerDecayOptimWrapperConstructor


@pytest.mark.parametrize(
    ('paramwise', 'message'),
    [
        ({}, r'must hold one decay_rate, above 0 and at most 1, got \[\]'),
        ({'decay_rate': 1.5}, 'must hold one decay_rate, .*got 1.5'),
        ({'decay_rate': 0.9, 'layer_decay_rate': 0.9}, 'must hold one decay_rate'),
        ({'decay_rate': 0.9, 'norm_decay_mult': 0}, 'paramwise_cfg may hold .*norm_decay_mult'),
        ({'decay_rate': 0.9, 'decay_type': 'stage_wise'}, "decay_type must be .*'stage_wise'"),
        ({'decay_rate': 0.9, 'num_layers': 24}, 'num_layers in paramwise_cfg must be 12, .*got 24'),
    ],
)
def test_options_that_are_not_known_or_do_not_fit_are_refused(paramwise, message):
    with pytest.raises(ValueError, match=message):
        build(segmentor(), **paramwise)


def test_a_model_without_a_vit_is_refused():
    with pytest.raises(ValueError, match='a segmentor whose backbone has layers, got Linear'):
        build(torch.nn.Linear(2, 2), decay_rate=0.9)
