"""MMSegmentation's backbone and Segmenter head, under Segmenter and SETR; its refusals; ours."""

import pytest
import torch

pytest.importorskip('mmseg')

from mmcv.cnn.bricks.transformer import BaseTransformerLayer, MultiheadAttention
from mmseg.models.backbones import (
    MAE,
    BEiT,
    MixVisionTransformer,
    SwinTransformer,
    VisionTransformer,
)
from mmseg.registry import MODELS

import mita_seg.models  # noqa: F401
from mita_seg import restore_attention, swap_attention
from support.swap_contract import EVERYTHING, USUAL, SwapContract

VIT = {'img_size': (64, 64), 'embed_dims': 32, 'num_layers': 2, 'num_heads': 2, 'patch_size': 16}
SEGMENTER = {'in_channels': 32, 'channels': 32, 'num_classes': 5, 'embed_dims': 32}
SEGMENTER |= {'num_layers': 2, 'num_heads': 2, 'dropout_ratio': 0.0, 'drop_path_rate': 0.0}
SETR = {'channels': 16, 'num_classes': 5, 'dropout_ratio': 0.0, 'norm_cfg': {'type': 'BN'}}


def segmentor(backbone, head, auxiliary=None, **options):
    return MODELS.build(
        {
            'type': 'EncoderDecoder',
            'backbone': {'type': backbone, **VIT, **options},
            'decode_head': head,
            'auxiliary_head': auxiliary,
            'test_cfg': {'mode': 'whole'},
        }
    )


class TestVisionTransformer(SwapContract):
    sizes = ((64, 64), (32, 96), (50, 70))
    alike = ((64, 64), (32, 128))

    def build(self):
        return VisionTransformer(**VIT)

    def checkpoint(self, model):
        for layer in model.layers:
            layer.with_cp = True

    def run(self, model, images):
        return model(images)[0]


class TestVisionTransformerWithoutClassToken(TestVisionTransformer):
    def build(self):
        return VisionTransformer(**VIT, with_cls_token=False, with_cp=True)


class TestSegmenter(SwapContract):
    alike = ((64, 64), (32, 128))

    def checkpoint(self, model):
        for layer in (*model.backbone.layers, *model.decode_head.layers):
            layer.with_cp = True

    def build(self):
        head = {'type': 'SegmenterMaskTransformerHead', **SEGMENTER}
        return segmentor('VisionTransformer', head)


class TestOurSegmenter(SwapContract):
    """Built with full attention: it tells its layers their grids."""

    def build(self):
        full = {'type': 'FullAttention'}
        head = {'type': 'MiTAMaskTransformerHead', **SEGMENTER, 'attn_cfg': full}
        return segmentor('MiTAVisionTransformer', head, attn_cfg=full)


class TestSETR(SwapContract):
    """Its heads hold no attention; their backbone does."""

    def build(self):
        head = {'type': 'SETRMLAHead', 'in_channels': (32, 32), 'in_index': (0, 1), **SETR}
        up = {'type': 'SETRUPHead', 'in_channels': 32, 'in_index': 0, **SETR, 'num_convs': 1}
        return segmentor('VisionTransformer', {**head, 'mla_channels': 8}, up, out_indices=(0, 1))


def test_landmarks_of_the_segmenter_head_leave_out_the_class_tokens():
    """The stock model swapped is our model: both know which tokens are patches."""
    head = {'type': 'SegmenterMaskTransformerHead', **SEGMENTER}
    stock = segmentor('VisionTransformer', head, patch_bias=True).eval()
    head = {'type': 'MiTAMaskTransformerHead', **SEGMENTER, 'attn_cfg': USUAL}
    ours = segmentor('MiTAVisionTransformer', head, attn_cfg=USUAL).eval()
    ours.load_state_dict(stock.state_dict())
    swap_attention(stock, USUAL)
    for size in ((64, 64), (32, 96)):
        images = torch.randn(1, 3, *size)
        torch.testing.assert_close(ours(images), stock(images), atol=1e-5, rtol=1e-4)


def test_the_head_alone_is_swapped_by_its_name():
    head = {'type': 'SegmenterMaskTransformerHead', **SEGMENTER}
    model = segmentor('VisionTransformer', head)
    swap_attention(model, USUAL, layers='decode_head')
    swapped = [name for name, module in model.named_modules() if hasattr(module, 'mita')]
    assert swapped == ['decode_head.layers.0.attn', 'decode_head.layers.1.attn']
    restore_attention(model)


def test_the_nearest_model_tells_the_grid():
    model = VisionTransformer(**VIT)
    model.teacher = VisionTransformer(**{**VIT, 'patch_size': 32})
    swap_attention(model, USUAL)
    assert model.teacher(torch.randn(1, 3, 64, 64))[0].shape == (1, 32, 2, 2)


def test_tokens_may_come_before_the_batch():
    first = MultiheadAttention(32, 2, batch_first=True).eval()
    second = MultiheadAttention(32, 2, batch_first=False).eval()
    second.load_state_dict(first.state_dict())
    x = torch.randn(3, 16, 32)
    expected = swap_attention(first, USUAL)(x)
    got = swap_attention(second, USUAL)(x.transpose(0, 1)).transpose(0, 1)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ('build', 'name'),
    [
        (lambda: BEiT(**VIT), 'BEiTAttention'),
        (lambda: MAE(**VIT), 'MAEAttention'),
        (
            lambda: SwinTransformer(
                embed_dims=32, depths=(2,), num_heads=(2,), strides=(4,), out_indices=(0,)
            ),
            'WindowMSA',
        ),
    ],
)
def test_bias_tables_are_refused(build, name):
    with pytest.raises(ValueError, match=rf'{name}\).* table of relative position biases'):
        swap_attention(build(), USUAL)


def test_attention_over_reduced_keys_is_refused():
    """SegFormer's; its modules wrap an nn.MultiheadAttention."""
    backbone = MixVisionTransformer(embed_dims=8, num_layers=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
    message = r'^MixVision.* \(layers.0.1.0.attn is cross.*reduces keys .*sr_ratio=8, and 3 more'
    with pytest.raises(ValueError, match=message):
        swap_attention(backbone, USUAL)
    with pytest.raises(ValueError, match='not known here, EfficientMultiheadAttention'):
        swap_attention(backbone, USUAL, layers='layers.3')
    assert not any(hasattr(module, 'mita') for module in backbone.modules())


def test_cross_attention_of_a_transformer_layer_is_refused():
    layer = BaseTransformerLayer(
        {'type': 'MultiheadAttention', 'embed_dims': 32, 'num_heads': 2},
        {'type': 'FFN', 'embed_dims': 32, 'feedforward_channels': 64},
        operation_order=('self_attn', 'norm', 'cross_attn', 'norm', 'ffn', 'norm'),
    )
    with pytest.raises(ValueError, match='attentions.1 is the cross-attention of a BaseTransf'):
        swap_attention(layer, USUAL)
    swap_attention(layer, USUAL, layers='attentions.0')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (lambda x: {'key': x.flip(1)}, 'no cross-attention'),
        (lambda x: {'query_pos': x}, 'position encodings'),
        (lambda x: {'attn_mask': torch.zeros(16, 16)}, 'attn_mask'),
    ],
)
def test_calls_that_it_cannot_serve_are_refused(options, message):
    attention = VisionTransformer(**VIT).layers[0].attn
    swap_attention(attention, USUAL)
    x = torch.randn(2, 16, 32)
    assert attention(x, key=x, value=x).shape == x.shape
    with pytest.raises(ValueError, match=message):
        attention(x, **options(x))


def test_attention_dropout_is_refused_in_training_alone():
    model = swap_attention(VisionTransformer(**VIT, attn_drop_rate=0.1), EVERYTHING)
    images = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r'no attention dropout, got dropout=0.1'):
        model(images)
    model.eval()
    assert model(images)[0].isfinite().all()


def test_a_setr_head_alone_has_nothing_to_swap():
    head = MODELS.build({'type': 'SETRUPHead', 'in_channels': 32, **SETR})
    with pytest.raises(ValueError, match='SETRUPHead has no self-attention'):
        swap_attention(head, USUAL)
