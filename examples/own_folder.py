"""A config for a folder of your own: FOLDER/{images,annotations}/{training,validation}.

Run ``python tools/train.py examples/own_folder.py`` from the repository, after setting the four
values below. Label maps are PNG of one channel: 0 is the first class, 255 is ignored.
"""

_base_ = '../configs/_base_/default_runtime.py'

data_root = 'data/own'
classes = ('sky', 'ground', 'tree', 'house', 'person', 'car', 'sign')
crop_size = (256, 256)  # whole patches of 16 pixels
# Full attention: dict(type='FullAttention').
attn_cfg = dict(type='MiTAAttention', landmarks=(6, 6), topk=36)

max_iters = 2000
palette = [[37 * i % 256, 97 * i % 256, 157 * i % 256] for i in range(1, len(classes) + 1)]
metainfo = dict(classes=classes, palette=palette)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=crop_size,
        test_cfg=dict(size_divisor=16),
    ),
    backbone=dict(
        type='MiTAVisionTransformer',
        img_size=crop_size,
        embed_dims=192,
        num_layers=12,
        num_heads=3,
        pos_embed_init='sine_cosine',  # without pretrained weights
        final_norm=True,
        attn_cfg=attn_cfg,
    ),
    decode_head=dict(
        type='MiTAMaskTransformerHead',
        in_channels=192,
        channels=192,
        embed_dims=192,
        num_heads=3,
        num_layers=2,
        num_classes=len(classes),
        dropout_ratio=0.0,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
        attn_cfg=attn_cfg,
    ),
    test_cfg=dict(mode='whole'),
)

# `_scope_` makes these two this package's loading, which checks images and labels.
load_image = dict(type='LoadImageFromFile', _scope_='mita_seg')
load_labels = dict(type='LoadAnnotations', _scope_='mita_seg', num_classes=len(classes))
train_pipeline = [
    load_image,
    load_labels,
    dict(type='RandomResize', scale=crop_size, ratio_range=(0.75, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [load_image, load_labels, dict(type='PackSegInputs')]
dataset = dict(type='BaseSegDataset', data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=max_iters // 10, by_epoch=False),
    dict(
        type='PolyLR', power=1.0, eta_min=1e-6, begin=max_iters // 10, end=max_iters, by_epoch=False
    ),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=500)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=500, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
