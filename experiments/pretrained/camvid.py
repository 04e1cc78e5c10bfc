# DINOv2-shaped ViT-S/14 with full attention on CamVid: crops of 25x34 patches.
# `study.sh` trains its variants.
_base_ = (
    '../../configs/mita_segmenter_camvid/mita-segmenter_vit-t-p16_full_1xb16-4k_camvid-352x480.py'
)
max_iters = 1200
warmup_iters = 120
crop_size = (350, 476)
data_preprocessor = dict(
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    size=crop_size,
    test_cfg=dict(size_divisor=14),
)
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        img_size=crop_size,
        patch_size=14,
        embed_dims=384,
        num_heads=6,
        pos_embed_init='trunc_normal',
        init_cfg=dict(
            type='Pretrained', checkpoint='work_dirs/pretrained/dinov2-vits14.safetensors'
        ),
    ),
    decode_head=dict(in_channels=384, channels=384, embed_dims=384, num_heads=6),
)
optim_wrapper = dict(
    optimizer=dict(lr=2e-4),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),  # the pretrained weights
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=warmup_iters, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=0.9, begin=warmup_iters, end=max_iters, by_epoch=False),
]
train_cfg = dict(max_iters=max_iters, val_begin=1000000)  # nothing is chosen by validation
default_hooks = dict(checkpoint=dict(interval=400))
