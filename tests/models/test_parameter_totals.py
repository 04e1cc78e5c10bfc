"""Sizes of whole segmentors at 512x512 with 150 classes, in the paper's table 6M, 24M and 96M."""

import pytest
import torch
from mmseg.registry import MODELS

import mita_seg.models  # noqa: F401


@pytest.mark.parametrize(
    ('embed_dims', 'num_layers', 'with_ffn', 'millions'),
    [
        (192, 3, False, 6.27),
        (384, 3, False, 24.26),
        (768, 3, False, 95.41),
        (192, 2, True, 6.7),
        (384, 2, True, 26.0),
        (768, 2, True, 102.5),
    ],
)
def test_parameters_of_a_segmentor(embed_dims, num_layers, with_ffn, millions):
    attn_cfg = {'type': 'MiTAAttention' if not with_ffn else 'FullAttention'}
    with torch.device('meta'):
        model = MODELS.build(
            {
                'type': 'EncoderDecoder',
                'backbone': {
                    'type': 'MiTAVisionTransformer',
                    'img_size': (512, 512),
                    'embed_dims': embed_dims,
                    'num_heads': embed_dims // 64,
                    'final_norm': True,
                },
                'decode_head': {
                    'type': 'MiTAMaskTransformerHead',
                    'in_channels': embed_dims,
                    'num_classes': 150,
                    'num_layers': num_layers,
                    'with_ffn': with_ffn,
                    'attn_cfg': attn_cfg,
                },
            }
        )
    total = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    places = len(str(millions).split('.')[1])
    assert round(total, places) == millions
