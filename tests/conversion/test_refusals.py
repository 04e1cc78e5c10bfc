"""What cannot be converted is refused, with the name that stands in the way."""

import pytest
import torch

from mita_seg.conversion import convert
from support import conversion_cases as cases
from support.conversion_cases import WIDTH, augreg_tensors, mmseg


def without(weights, name):
    return {n: w for n, w in weights.items() if n != name}


def swiglu():
    weights = cases.dinov2()
    weights['blocks.0.mlp.fc1.weight'] = torch.randn(8 * WIDTH, WIDTH)
    return weights


@pytest.mark.parametrize(
    ('make', 'options', 'message'),
    [
        (cases.timm_vit, {'source': 'jax'}, "source must be auto or one of timm.*'jax'"),
        (cases.timm_vit, {'target': 'timm'}, "target must be mita_seg or mmseg, got 'timm'"),
        (cases.timm_vit, {'source': 'mmseg'}, 'not those of mmseg but those of timm'),
        (mmseg, {'source': 'dino'}, 'not those of dino but those of mmseg'),
        (dict, {}, 'it is empty'),
        (lambda: {'conv1.weight': torch.zeros(1)}, {}, 'first names are conv1.weight'),
        (swiglu, {}, 'layers.0.ffn.layers.0.0.weight is of a gated'),
        (lambda: cases.dinov2(4), {'target': 'mmseg'}, 'register_tokens: .* no registers'),
        (cases.mita_deit, {'target': 'mmseg'}, r'attn\.dwc\.weight: .*DWC'),
        (
            lambda: {**cases.ours(), 'decode_head.mask_norm.scale': torch.ones(2)},
            {'target': 'mmseg'},
            r"mask_norm\.scale: .* no learned scale of the masks \(mask_norm='scale'\)",
        ),
        (
            lambda: cases.mita_deit(dwc=False, gate=True),
            {'target': 'mmseg'},
            r'attn\.gate\.\w+: .* no gate',
        ),
        (
            lambda: {**augreg_tensors(), 'conv_root/kernel': torch.zeros(1)},
            {},
            'conv_root/kernel is no part of a plain ViT',
        ),
        (
            lambda: without(
                augreg_tensors(),
                'Transformer/encoderblock_0/MultiHeadDotProductAttention_1/key/bias',
            ),
            {},
            'query/bias is there but .*key/bias is not',
        ),
        (
            lambda: without(cases.dinov2(), 'blocks.1.attn.proj.weight'),
            {},
            r'layers.1.ls1.gamma is there but layers.1.attn.proj.weight is not',
        ),
        (
            lambda: {**cases.timm_vit(), 'ln1.weight': torch.zeros(WIDTH)},
            {},
            'norm.weight and ln1.weight both become ln1.weight',
        ),
        (
            lambda: {**cases.dinov2(4), 'pos_embed': torch.zeros(1, 12, WIDTH)},
            {},
            r'pos_embed of shape \[1, 12, 32\] is not for a square grid',
        ),
        (
            lambda: {**cases.timm_vit(), 'pos_embed': torch.zeros(1, 11, WIDTH)},
            {'img_size': (64, 64)},
            'cannot be resized to 8x8 patches',
        ),
        (cases.timm_vit, {'img_size': (64, 7)}, r'at least one patch of 8 pixels.*\(64, 7\)'),
        (
            lambda: without(cases.timm_vit(), 'pos_embed'),
            {'img_size': (64, 64)},
            'needs .*pos_embed',
        ),
    ],
)
def test_what_cannot_be_converted_is_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        convert(make(), **options)
