"""MiTAMaskTransformerHead against MMSegmentation's SegmenterMaskTransformerHead."""

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads import SegmenterMaskTransformerHead
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch.nn.functional import interpolate

from mita_seg.conversion.key_map import our_name
from mita_seg.models import MiTAMaskTransformerHead

SMALL = {
    'in_channels': 24,
    'channels': 32,
    'num_classes': 5,
    'num_layers': 2,
    'num_heads': 2,
    'embed_dims': 32,
    'dropout_ratio': 0.0,
}
FULL = {'type': 'FullAttention'}
MITA = {'type': 'MiTAAttention', 'landmarks': (2, 2), 'topk': 5}


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('size', [(6, 6), (3, 8)])
@pytest.mark.parametrize('options', [{}, {'qkv_bias': False, 'mlp_ratio': 2, 'num_fcs': 3}])
def test_full_attention_equals_stock_in_outputs_and_gradients(dtype, size, options):
    stock = SegmenterMaskTransformerHead(**SMALL, **options)
    for parameter in stock.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = MiTAMaskTransformerHead(**SMALL, **options, attn_cfg=FULL)
    ours.load_state_dict(stock.state_dict(), strict=True)
    stock.to(dtype).eval()
    ours.to(dtype).eval()
    features = [torch.randn(2, 24, *size, dtype=dtype, requires_grad=True)]
    outputs = [head(features) for head in (stock, ours)]
    weights = torch.randn_like(outputs[0])
    names = [name for name, _ in stock.named_parameters()]
    gradients = []
    for head, output, rename in zip((stock, ours), outputs, (str, our_name), strict=True):
        inputs = [features[0], *(head.get_parameter(rename(name)) for name in names)]
        gradients.append(torch.autograd.grad(output, inputs, weights))
    for expected, got in zip([outputs[0], *gradients[0]], [outputs[1], *gradients[1]], strict=True):
        largest = 1 if dtype == torch.float64 else expected.abs().max().item()
        bound = largest * (1e-9 if dtype == torch.float64 else 1e-4)
        torch.testing.assert_close(got, expected, atol=bound, rtol=0)


def test_class_queries_are_never_pooled():
    head = MiTAMaskTransformerHead(**SMALL, attn_cfg=MITA).eval()
    pooled = []
    attention = head.layers[0].attn
    attend = attention.attend

    def spy(query, key, value, grid, start):
        pooled.append((tuple(query.shape), grid, start))
        return attend(query, key, value, grid, start)

    attention.attend = spy
    head([torch.randn(1, 24, 4, 6)])
    assert pooled == [((1, 2, 4 * 6 + 5, 16), (4, 6), 0)]


def test_attention_of_the_user_is_built_by_its_type():
    @MODELS.register_module(force=True)
    class PassThrough(torch.nn.Module):
        def __init__(self, embed_dims, num_heads, qkv_bias=True, proj_drop=0.0):
            super().__init__()

        def forward(self, x, grid, start=0):
            return x

    head = MiTAMaskTransformerHead(**SMALL, attn_cfg={'type': 'PassThrough'})
    assert head([torch.randn(1, 24, 4, 6)]).shape == (1, 5, 4, 6)


def test_attention_only_decoder_has_no_feed_forward():
    head = MiTAMaskTransformerHead(**{**SMALL, 'num_layers': 3}, with_ffn=False, attn_cfg=MITA)
    assert not any('ffn' in name or 'ln2' in name for name, _ in head.named_parameters())
    assert head([torch.randn(1, 24, 4, 6)]).shape == (1, 5, 4, 6)


@pytest.mark.parametrize(('embed_dims', 'expected'), [(192, 3), (384, 6), (32, 1)])
def test_number_of_heads_as_in_the_stock_configs(embed_dims, expected):
    arguments = {**SMALL, 'embed_dims': embed_dims, 'num_heads': None}
    head = MiTAMaskTransformerHead(**arguments)
    assert head.layers[0].attn.num_heads == expected


def test_maps_of_several_layers_are_resized_and_joined():
    several = {'in_channels': [8, 16], 'in_index': [0, 2], 'input_transform': 'resize_concat'}
    joined = MiTAMaskTransformerHead(**{**SMALL, **several}, attn_cfg=MITA).eval()
    single = MiTAMaskTransformerHead(**SMALL, attn_cfg=MITA).eval()
    single.load_state_dict(joined.state_dict())
    maps = [torch.randn(1, 8, 4, 6), torch.randn(1, 3, 4, 6), torch.randn(1, 16, 2, 3)]
    enlarged = interpolate(maps[2], (4, 6), mode='bilinear')
    torch.testing.assert_close(joined(maps), single([torch.cat((maps[0], enlarged), 1)]))
    narrow = {**SMALL, **several, 'embed_dims': None, 'num_heads': None}
    assert MiTAMaskTransformerHead(**narrow).dec_proj.weight.shape == (24, 24)


@pytest.mark.parametrize(
    ('maps', 'message'),
    [
        ([torch.zeros(1, 32, 4, 6)], 'in_channels=24, but the map at in_index=-1 has 32 channels'),
        ([], 'in_index=-1 needs more maps than the backbone returns, 0'),
        ([[torch.zeros(1, 24, 4, 6), torch.zeros(1, 24)]], r'takes maps .*got list .*output_cls'),
        ([torch.zeros(1, 24, 24)], r'takes maps .*got \[1, 24, 24\]'),
    ],
)
def test_maps_that_do_not_fit_are_refused(maps, message):
    with pytest.raises(ValueError, match=message):
        MiTAMaskTransformerHead(**SMALL)(maps)


def test_dropout_zeroes_whole_channels_in_training_only():
    head = MiTAMaskTransformerHead(**{**SMALL, 'dropout_ratio': 0.5}, drop_path_rate=0)
    passed = []
    head.patch_proj.register_forward_pre_hook(lambda _, arguments: passed.append(*arguments))
    features = [torch.randn(1, 24, 4, 6)]
    torch.testing.assert_close(head.eval()(features), head.eval()(features))
    head.train()(features)
    plain, dropped = passed[0], passed[2]
    zeroed = (dropped == 0).all(1)[0]
    assert 0 < zeroed.sum() < 32
    torch.testing.assert_close(dropped[..., ~zeroed], 2 * plain[..., ~zeroed])


def test_trains_with_checkpointing_and_a_loss():
    head = MiTAMaskTransformerHead(**SMALL, attn_cfg=MITA, with_cp=True)
    head.init_weights()
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 5, (1, 32, 48))))
    losses = head.loss([torch.randn(1, 24, 4, 6)], [sample], None)
    losses['loss_ce'].backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'attn_drop_rate': 0.2}, 'attn_drop_rate must be 0.*got 0.2'),
        ({'num_heads': 3}, 'embed_dims=32 and num_heads=3'),
        ({'attn_cfg': {'type': 'Nothing'}}, "known: FullAttention, MiTAAttention.*got 'Nothing'"),
        ({'dropout_ratio': 1.5}, 'dropout_ratio must be from 0 to below 1, got 1.5'),
        ({'conv_cfg': {'type': 'Conv2d'}}, 'conv_cfg must be None'),
        ({'norm_cfg': {'type': 'SyncBN'}}, "norm_cfg must .*each token.*got 'SyncBN'"),
        ({'in_channels': [24, 24]}, r'must be ints without input_transform.*\[24, 24\]'),
        ({'in_index': [0, 1]}, r'must be ints without input_transform.*\[0, 1\]'),
        (
            {'in_channels': [24, 24], 'in_index': [0, 1], 'input_transform': 'multiple_select'},
            "input_transform must be None or 'resize_concat'.*got 'multiple_select'",
        ),
        ({'input_transform': 'resize_concat'}, 'must be lists of one length .*in_channels=24'),
    ],
)
def test_bad_arguments_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        MiTAMaskTransformerHead(**{**SMALL, **options})
