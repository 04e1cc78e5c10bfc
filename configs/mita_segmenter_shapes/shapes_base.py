# A Segmenter small enough to train from scratch on two CPU cores, and the drawn data set of
# tools/make_shapes_dataset.py. What the configs of this folder share.
_base_ = '../_base_/default_runtime.py'
crop_size = (128, 128)
max_iters = 500

data_preprocessor = dict(
    type='SegDataPreProcessor',
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=crop_size,
)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='MiTAVisionTransformer',
        img_size=crop_size,
        patch_size=4,  # 1,024 patches, as many as 16x16 pixels each make of a 512x512 image
        embed_dims=64,
        num_layers=4,
        num_heads=2,
        mlp_ratio=3,
        pos_embed_init='sine_cosine',
        final_norm=True,
        with_cls_token=True,
    ),
    decode_head=dict(
        type='MiTAMaskTransformerHead',
        in_channels=64,
        channels=64,
        embed_dims=64,
        num_heads=2,
        num_layers=1,
        num_classes=7,
        dropout_ratio=0.0,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    test_cfg=dict(mode='whole'),
)

# MMSegmentation's own tools look for the loading under these two names; `_scope_` makes them this
# package's LoadCheckedImage and LoadCheckedLabels.
load_image = dict(type='LoadImageFromFile', _scope_='mita_seg')
load_labels = dict(type='LoadAnnotations', _scope_='mita_seg', num_classes=7)
train_pipeline = [
    load_image,
    load_labels,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [load_image, load_labels, dict(type='PackSegInputs')]
data_root = 'data/shapes'
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='ShapesDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ShapesDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=50, end=max_iters, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=100, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
env_cfg = dict(cudnn_benchmark=False)
