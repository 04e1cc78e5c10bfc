"""The config of a segmentor with MiTA attention that takes a fraction of a second."""

MITA = {'type': 'MiTAAttention', 'landmarks': (2, 2), 'topk': 3}
CONFIG = {
    'backbone': {
        'type': 'MiTAVisionTransformer',
        'img_size': 32,
        'patch_size': 8,
        'embed_dims': 32,
        'num_layers': 1,
        'num_heads': 2,
        'attn_cfg': MITA,
    },
    'decode_head': {
        'type': 'MiTAMaskTransformerHead',
        'in_channels': 32,
        'num_layers': 1,
        'num_heads': 2,
        'num_classes': 3,
        'attn_cfg': MITA,
    },
    'test_cfg': {'mode': 'whole'},
}
