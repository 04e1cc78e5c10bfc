_base_ = './ade20k_512x512.py'
crop_size = (640, 640)
# MMSegmentation's own tools look for the loading under these two names; `_scope_` makes them this
# package's LoadCheckedImage and LoadCheckedLabels.
load_image = dict(type='LoadImageFromFile', _scope_='mita_seg')
load_labels = dict(type='LoadAnnotations', _scope_='mita_seg', num_classes=150)
train_pipeline = [
    load_image,
    load_labels,
    dict(type='RandomResize', scale=(2560, 640), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    load_image,
    dict(type='Resize', scale=(2560, 640), keep_ratio=True),
    load_labels,  # after Resize: predictions are compared at the labels' own size
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
