_base_ = '../_base_/ade20k_512x512_fast.py'
checkpoint = 'https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/segmenter/vit_small_p16_384_20220308-410f6037.pth'
model = dict(
    backbone=dict(
        embed_dims=384,
        num_heads=6,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    ),
    decode_head=dict(in_channels=384, channels=384, embed_dims=384),
)
