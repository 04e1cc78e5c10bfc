_base_ = '../_base_/ade20k_640x640_fast.py'
checkpoint = 'https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/segmenter/vit_large_p16_384_20220308-d4efb41d.pth'
data_preprocessor = dict(size=(640, 640))
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        img_size=(640, 640),
        embed_dims=1024,
        num_layers=24,
        num_heads=16,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    ),
    decode_head=dict(in_channels=1024, channels=1024, embed_dims=1024),
    test_cfg=dict(crop_size=(640, 640), stride=(608, 608)),
)
