"""timm's VisionTransformer."""

from inspect import signature

import pytest
import torch
from torch import nn

from mita_seg import swap_attention
from support.swap_contract import EVERYTHING, USUAL, SwapContract, import_or_skip

timm = import_or_skip('timm')
vision_transformer = import_or_skip('timm.models.vision_transformer')

SMALL = {'img_size': 64, 'embed_dim': 32, 'depth': 2, 'num_heads': 2, 'num_classes': 5}
SMALL |= {'dynamic_img_size': True}


class TestViT(SwapContract):
    """ViT and AugReg."""

    alike = ((64, 64), (32, 128))

    def checkpoint(self, model):
        model.set_grad_checkpointing()

    def build(self):
        return vision_transformer.VisionTransformer(**SMALL)


class TestPadded(TestViT):
    sizes = ((64, 64), (50, 90))
    alike = ((50, 60), (20, 120))

    def build(self):
        return vision_transformer.VisionTransformer(**SMALL, dynamic_img_pad=True)


class TestDistilledDeiT(TestViT):
    def build(self):
        return timm.create_model(
            'deit_tiny_distilled_patch16_224', **{**SMALL, 'dynamic_img_size': True}
        )


class TestDINOv2WithRegisters(TestViT):
    sizes = ((56, 56), (28, 84))
    alike = ((56, 56), (28, 112))

    def build(self):
        options = {**SMALL, 'img_size': 56}
        return timm.create_model('vit_small_patch14_reg4_dinov2', **options)


class TestNormalisedGated(TestViT):
    """With all that timm's Attention may hold besides its projections."""

    def build(self):
        model = super().build()
        options = {'qk_norm': True, 'scale_norm': True, 'gated': True, 'norm_layer': nn.LayerNorm}
        accepted = signature(vision_transformer.Attention).parameters  # some are recent
        options = {name: value for name, value in options.items() if name in accepted}
        for block in model.blocks:
            block.attn = vision_transformer.Attention(32, 2, **options)
        return model


class TestAttentionPooling(TestViT):
    """SigLIP's: the head's queries are its own, and it stays as it is."""

    def build(self):
        return vision_transformer.VisionTransformer(**SMALL, class_token=False, global_pool='map')


class TestFeatures(SwapContract):
    """The wrapper that timm makes of a backbone."""

    def build(self):
        options = {**SMALL, 'features_only': True, 'out_indices': (1,)}
        options.pop('num_classes')
        try:
            return timm.create_model('vit_tiny_patch16_224', **options)
        except RuntimeError:
            pytest.skip(f'timm {timm.__version__} makes no feature extractor of a ViT')

    def run(self, model, images):
        return model(images)[0]


def test_landmarks_leave_out_class_token_and_registers():
    """The first block's landmarks are those of its patches."""
    model = vision_transformer.VisionTransformer(**SMALL, reg_tokens=4).eval()
    swap_attention(model, USUAL)
    model(torch.randn(1, 3, 32, 96))
    assert model.blocks[0].attn.mita.grid.locate(17) == ((2, 6), 5)


def test_dropped_patches_are_refused():
    model = vision_transformer.VisionTransformer(**SMALL, patch_drop_rate=0.5)
    swap_attention(model, USUAL)
    with pytest.raises(ValueError, match='got 9 tokens, .* 4 x 4 patches .*1 special tokens'):
        model(torch.randn(1, 3, 64, 64))


def test_masks_and_attention_dropout_are_refused():
    attention = vision_transformer.Attention(32, 2, attn_drop=0.1)
    swap_attention(attention, EVERYTHING)
    x = torch.randn(1, 16, 32)
    with pytest.raises(ValueError, match='no attention dropout, got 0.1'):
        attention(x)
    attention.eval()
    assert attention(x).shape == x.shape
    with pytest.raises(ValueError, match='no mask, got attn_mask'):
        attention(x, attn_mask=torch.zeros(16, 16))


def test_bias_tables_are_refused():
    model = timm.create_model('beit_base_patch16_224', img_size=32, embed_dim=32, depth=1)
    with pytest.raises(ValueError, match=r'Attention\).* table of relative position biases'):
        swap_attention(model, USUAL)
    model = timm.create_model('swin_tiny_patch4_window7_224', embed_dim=32, depths=(1,))
    with pytest.raises(ValueError, match=r'WindowAttention\).* table of relative position biases'):
        swap_attention(model, USUAL)
