# Training images are read once, kept in memory and augmented on the GPU (batch_preprocessor), so
# there are no worker processes in training. For final figures train on 'trainval', test on 'test'.
dataset_type = 'CamVidDataset'
data_root = 'data/camvid'
crop_size = (352, 480)
batch_preprocessor = dict(
    type='BatchSegDataPreProcessor',
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=crop_size,
    ratio_range=(0.5, 2.0),
    test_cfg=dict(size_divisor=16),  # whole images of 360 rows, which patches of 16 do not divide
)
# MMSegmentation's own tools look for the loading under these two names; `_scope_` makes them this
# package's LoadCheckedImage and LoadCheckedLabels.
load_image = dict(type='LoadImageFromFile', _scope_='mita_seg')
load_labels = dict(type='LoadAnnotations', _scope_='mita_seg', num_classes=11)
test_pipeline = [load_image, load_labels, dict(type='PackSegInputs')]
train_pipeline = [
    dict(type='CacheInMemory', transforms=[load_image, load_labels, dict(type='PackSegViews')])
]
tta_pipeline = [
    load_image,
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale_factor=ratio, keep_ratio=True)
                for ratio in (0.75, 1.0, 1.25, 1.5)
            ],
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
            [load_labels],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='join_samples'),
    dataset=dict(type=dataset_type, data_root=data_root, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, split='val', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
