"""MiTAVisionTransformer against MMSegmentation's VisionTransformer, and its own contract."""

import pytest
import torch
from mmseg.models.backbones import VisionTransformer
from mmseg.registry import MODELS

from mita_seg.conversion.key_map import our_name
from mita_seg.models import MiTAVisionTransformer

SMALL = {'img_size': (64, 64), 'embed_dims': 32, 'num_layers': 3, 'num_heads': 2, 'patch_size': 16}
FULL = {'type': 'FullAttention'}
MITA = {'type': 'MiTAAttention', 'landmarks': (2, 2), 'topk': 5}


def stock_and_ours(dtype, **options):
    arguments = {**SMALL, 'patch_bias': True, **options}
    stock = VisionTransformer(**arguments)
    stock.init_weights()
    for parameter in stock.parameters():  # away from zeros and ones
        torch.nn.init.normal_(parameter, std=0.2)
    ours = MiTAVisionTransformer(**arguments, attn_cfg=FULL)
    result = ours.load_state_dict(stock.state_dict(), strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    stock.eval()
    return stock.to(dtype), ours.to(dtype).eval()


def flat(outs):
    """Every tensor of the outputs, with or without class tokens."""
    return [t for out in outs for t in (out if isinstance(out, list) else [out])]


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('size', [(64, 64), (48, 96), (70, 50)])
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'final_norm': True, 'out_indices': (0, 2), 'norm_cfg': {'type': 'LN', 'eps': 1e-6}},
        {'with_cls_token': False, 'pre_norm': True, 'out_origin': True},
        {'output_cls_token': True, 'qkv_bias': False, 'patch_norm': True},
        {'num_fcs': 3, 'mlp_ratio': 2, 'act_cfg': {'type': 'ReLU'}, 'interpolate_mode': 'bilinear'},
    ],
)
def test_full_attention_equals_stock_in_outputs_and_gradients(dtype, size, options):
    stock, ours = stock_and_ours(dtype, **options)
    images = torch.randn(2, 3, *size, dtype=dtype)
    outputs = [flat(model(images)) for model in (stock, ours)]
    assert [out.shape for out in outputs[0]] == [out.shape for out in outputs[1]]
    weights = [torch.randn_like(out) for out in outputs[0]]
    for outs in outputs:
        sum((out * weight).sum() for out, weight in zip(outs, weights, strict=True)).backward()
    gradients = ([], [])
    for name, parameter in stock.named_parameters():
        twin = ours.get_parameter(our_name(name))
        assert (parameter.grad is None) == (twin.grad is None)
        if parameter.grad is not None:
            gradients[0].append(parameter.grad)
            gradients[1].append(twin.grad)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for expected, got in zip(
        [*outputs[0], *gradients[0]], [*outputs[1], *gradients[1]], strict=True
    ):
        bound = tolerance * (1 if dtype == torch.float64 else expected.abs().max().item())
        torch.testing.assert_close(got, expected, atol=bound, rtol=0)


@pytest.mark.parametrize('size', [(64, 64), (96, 48)])
@pytest.mark.parametrize('with_cls_token', [True, False])
def test_mita_with_every_key_and_no_shared_expert_is_the_full_model(size, with_cls_token):
    _, full = stock_and_ours(torch.float64, with_cls_token=with_cls_token)
    everything = {'type': 'MiTAAttention', 'landmarks': (2, 2), 'topk': 999, 'shared': False}
    mita = MiTAVisionTransformer(**SMALL, with_cls_token=with_cls_token, attn_cfg=everything)
    mita.double().eval().load_state_dict(full.state_dict())
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(mita(images)[0], full(images)[0], atol=1e-9, rtol=0)


def test_one_attention_a_layer():
    model = MiTAVisionTransformer(**SMALL, attn_cfg=[FULL, MITA, FULL])
    kinds = [type(layer.attn).__name__ for layer in model.layers]
    assert kinds == ['FullAttention', 'MiTAAttention', 'FullAttention']
    assert model(torch.randn(1, 3, 64, 32))[0].shape == (1, 32, 4, 2)


def test_attention_of_the_user_is_built_by_its_type():
    @MODELS.register_module(force=True)
    class MeanAttention(torch.nn.Module):
        def __init__(self, embed_dims, num_heads, gain, **options):
            super().__init__()
            self.gain = gain

        def forward(self, x, grid, start=0):
            return self.gain * x.mean(1, keepdim=True).expand_as(x)

    attn_cfg = {'type': 'MeanAttention', 'gain': 2}
    model = MiTAVisionTransformer(**SMALL, attn_cfg=attn_cfg)
    assert model.layers[0].attn.gain == 2 and attn_cfg == {'type': 'MeanAttention', 'gain': 2}
    assert model(torch.randn(1, 3, 64, 64))[0].shape == (1, 32, 4, 4)


def test_position_embedding_is_resized_to_a_grid_of_as_many_patches():
    model = MiTAVisionTransformer(**SMALL, attn_cfg=FULL).eval()
    model.init_weights()
    images = torch.randn(1, 3, 32, 128)
    resized = model(images)[0]
    with torch.no_grad():
        model.pos_embed[:, 1:].copy_(torch.randn(1, 16, 32))
    assert resized.shape == (1, 32, 2, 8) and not torch.allclose(model(images)[0], resized)
    flat = MiTAVisionTransformer(**{**SMALL, 'img_size': (32, 128)}, attn_cfg=FULL).eval()
    # Without metadata nothing tells that it was another grid: taken as it is, so row by row.
    flat.load_state_dict(dict(model.state_dict()))
    assert not torch.allclose(flat(images)[0], model(images)[0])


@pytest.mark.parametrize(
    ('patch_pad', 'grid'),
    [('corner', (3, 5)), ('same', (3, 5)), (None, (2, 4)), (0, (2, 4)), ((8, 0), (3, 4))],
)
def test_padding_of_images_that_patches_do_not_divide(patch_pad, grid):
    model = MiTAVisionTransformer(**SMALL, patch_pad=patch_pad, attn_cfg=MITA)
    assert model(torch.randn(1, 3, 40, 75))[0].shape == (1, 32, *grid)


def test_images_of_other_channels_are_refused():
    model = MiTAVisionTransformer(**SMALL, in_channels=4)
    with pytest.raises(ValueError, match='in_channels=4, but the images have 3 channels'):
        model(torch.randn(1, 3, 64, 64))


def test_an_option_that_the_users_attention_lacks_is_not_ignored():
    class Plain(torch.nn.Module):
        def __init__(self, embed_dims, num_heads):
            super().__init__()

    MiTAVisionTransformer(**SMALL, attn_cfg={'type': Plain})
    with pytest.raises(TypeError, match='qkv_bias'):
        MiTAVisionTransformer(**SMALL, attn_cfg={'type': Plain}, qkv_bias=False)


def test_train_and_eval_return_the_model_and_norm_eval_holds():
    model = MiTAVisionTransformer(**SMALL, norm_eval=True)
    assert model.eval() is model and model.train() is model
    assert model.training and not model.layers[0].ln1.training


def test_frozen_exclude_names_what_is_trained():
    model = MiTAVisionTransformer(**SMALL, frozen_exclude=['ln', 'pos_embed'])
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert 'pos_embed' in trained and 'layers.0.ln1.weight' in trained
    assert not any('qkv' in name or 'cls_token' in name for name in trained)


def test_checkpointing_gives_the_same_gradients():
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = MiTAVisionTransformer(**SMALL, attn_cfg=MITA, with_cp=with_cp)
        model.init_weights()
        model(torch.ones(1, 3, 64, 64))[0].square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'attn_drop_rate': 0.1}, ValueError, 'attn_drop_rate must be 0.*got 0.1'),
        ({'num_heads': 5}, ValueError, 'embed_dims=32 and num_heads=5'),
        (
            {'attn_cfg': {'type': 'Flash'}},
            ValueError,
            "known: FullAttention, MiTAAttention.*'Flash'",
        ),
        ({'attn_cfg': {}}, ValueError, 'attn_cfg must have the type .*got None'),
        ({'attn_cfg': 'MiTAAttention'}, TypeError, "attn_cfg must be a dict.*got 'MiTAAttention'"),
        ({'attn_cfg': [MITA]}, ValueError, 'attn_cfg must be one dict or one .* 3 layers, got 1'),
        ({'out_indices': 3}, ValueError, 'out_indices must be from 0 to 2.*3'),
        ({'out_indices': [-2]}, ValueError, 'out_indices must be from 0 to 2'),
        ({'out_indices': 'last'}, TypeError, 'out_indices must be an int or a list'),
        ({'img_size': (64, 64, 3)}, ValueError, 'img_size must be one or two positive ints'),
        ({'output_cls_token': True, 'with_cls_token': False}, ValueError, 'with_cls_token=True'),
        (
            {'pretrained': 'a', 'init_cfg': {'type': 'Pretrained'}},
            ValueError,
            'pretrained and init_cfg',
        ),
        ({'pretrained': 3}, TypeError, 'pretrained must be a str or None, got 3'),
        ({'patch_pad': 'valid'}, ValueError, "patch_pad must be 'corner', 'same', None.*'valid'"),
        ({'patch_pad': -1}, ValueError, 'patch_pad must be .*got -1'),
        ({'img_size': (64, 8)}, ValueError, r'img_size must be at least patch_size=16.*\(64, 8\)'),
        ({'pretrained_size': 0}, ValueError, 'pretrained_size must be one or two positive ints'),
        ({'norm_cfg': {'type': 'BN'}}, ValueError, "norm_cfg must .*each token.*got 'BN'"),
        ({'norm_cfg': {'type': 'SyncBN'}}, ValueError, "norm_cfg must .*got 'SyncBN'"),
        ({'norm_cfg': {'type': 'GN', 'num_groups': 2}}, ValueError, "norm_cfg must .*got 'GN'"),
        ({'norm_cfg': {'type': 'LM'}}, ValueError, "norm_cfg must have a registered type.*'LM'"),
        ({'norm_cfg': 'LN'}, TypeError, "norm_cfg must be a dict with a type, or None, got 'LN'"),
    ],
)
def test_bad_arguments_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        MiTAVisionTransformer(**{**SMALL, **options})
