"""Configs for a data set: full attention and MiTA, which differ in one key."""

from pathlib import Path

IMAGENET = (
    'https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/segmenter/'
    'vit_tiny_p16_384_20220308-cce8c795.pth'
)

_BASE = """\
# What {name}_full.py and {name}_mita.py share: the data in this folder, and a ViT-T with
# Segmenter's mask transformer, for one GPU. tools/prepare_dataset.py wrote it; change it freely.
default_scope = 'mmseg'
custom_imports = dict(imports=['mita_seg.models', 'mita_seg.datasets'], allow_failed_imports=False)
data_root = {root!r}
classes = {classes}
palette = {palette}
num_classes = {count}
crop_size = {crop}  # height and width of what is learnt at once; images are resized to it first
max_iters = {iters}

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
    ),
    backbone=dict(
        type='MiTAVisionTransformer',
        img_size=crop_size,
        patch_size={patch},
        embed_dims=192,
        num_layers=12,
        num_heads=3,
        drop_path_rate=0.1,
        final_norm=True,
        norm_cfg=dict(type='LN', eps=1e-6, requires_grad=True),
        with_cls_token=True,
        interpolate_mode='bicubic',
        init_cfg={init},
    ),
    decode_head=dict(
        type='MiTAMaskTransformerHead',
        in_channels=192,
        channels=192,
        embed_dims=192,
        num_classes=num_classes,
        num_layers=2,
        drop_path_rate=0.1,
        dropout_ratio=0.0,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    test_cfg=dict(mode='slide', crop_size=crop_size, stride={stride}),
)

# MMSegmentation's own tools look for the loading under these two names; `_scope_` makes them
# LoadCheckedImage and LoadCheckedLabels.
load_image = dict(type='LoadImageFromFile', _scope_='mita_seg')
load_labels = dict(type='LoadAnnotations', _scope_='mita_seg', num_classes=num_classes)
scale = {scale}  # the longer side at most, the shorter side
train_pipeline = [
    load_image,
    load_labels,
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    load_image,
    dict(type='Resize', scale=scale, keep_ratio=True),
    load_labels,  # after Resize: predictions are compared at the labels' own size
    dict(type='PackSegInputs'),
]
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    load_image,
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=each, keep_ratio=True)
                for each in {tta_scales}
            ],
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
            [load_labels],
            [dict(type='PackSegInputs')],
        ],
    ),
]
dataset = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes, palette=palette),
    img_suffix={suffix!r},
    seg_map_suffix='.png',
)
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
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
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = {test}
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),{rates}
)
warmup = max(1, max_iters // 20)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=warmup, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=0.9, begin=warmup, end=max_iters, by_epoch=False),
]
val_interval = max(1, max_iters // 8)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=val_interval)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=val_interval, max_keep_ckpts=2
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='StoredImageVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
auto_scale_lr = dict(enable=False, base_batch_size=8)
"""

# At the rate of the other weights, pretrained ones are spoilt: experiments/pretrained/README.md
_RATES = """
    # The pretrained weights learn at a tenth of the rate, which would spoil them.
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),"""

# Nearer to full attention, which the weights are for: the same study.
_NEARER = ', kmeans_steps=1, shared=False, remainder=True'

_TWIN = """\
_base_ = './{name}_base.py'
attention = {attention}
model = dict(
    backbone=dict(attn_cfg=attention),
    decode_head=dict(attn_cfg=attention),
)
"""


def write_configs(folder, name, root, classes, suffix, size, has_test, iters, pretrained=IMAGENET):
    """Write ``NAME_base.py``, ``NAME_full.py`` and ``NAME_mita.py``.

    Crops are squares of the usual image's shorter side in patches, of 512 pixels at most; the
    patches are of 16 pixels, or of 8 in crops below 256.

    Args:
        folder (Path): Where to.
        name (str): The beginning of their names.
        root (Path): Where the data set will be.
        classes (ClassList): Its classes.
        suffix (str): Ending of the images' names.
        size (tuple[int, int]): Height and width of the usual image, pixels.
        has_test (bool): Whether there is a test split beside training and validation.
        iters (int): Iterations of training.
        pretrained (str, optional): Weights that the backbone starts from, a file or an address.

    Returns:
        list[Path]: The configs of the two twins.
    """
    patch = 16 if min(size) >= 256 else 8
    side = max(4 * patch, min(512, min(size) // patch * patch))
    stride = max(patch, side * 15 // 16 // patch * patch)
    # A crop has as many patches a side; an expert's keys are at most half of them all.
    grid = side // patch
    landmarks = min(6, max(1, grid // 2))
    init = f'dict(type={"Pretrained"!r}, checkpoint={pretrained!r})' if pretrained else 'None'
    test = 'val_dataloader'
    if has_test:
        test = (
            "dict(\n    **{**val_dataloader, 'dataset': {**val_dataloader['dataset'], "
            "'data_prefix': dict(\n        img_path='images/test', "
            "seg_map_path='annotations/test')}}\n)"
        )
    text = _BASE.format(
        name=name,
        root=str(root),
        classes=_column([repr(each) for each in classes.names]),
        palette=_column([repr(each) for each in classes.palette.tolist()], '[]'),
        count=len(classes.names),
        crop=(side, side),
        iters=iters,
        patch=patch,
        init=init,
        rates=_RATES if pretrained else '',
        stride=(stride, stride),
        scale=(4 * side, side),
        tta_scales=[(4 * size, size) for size in (side * 3 // 4, side, side * 5 // 4)],
        suffix=suffix,
        test=test,
    )
    (folder / f'{name}_base.py').write_text(text, encoding='utf-8')
    topk = min(36, max(1, grid * grid // 4))
    more = f'topk={topk}'
    if pretrained:  # without a shared expert there are twice the keys, for as many products
        more = f'topk={2 * topk}{_NEARER}'
    mita = f"dict(type='MiTAAttention', landmarks={(landmarks, landmarks)}, {more})"
    written = []
    for twin, attention in (('full', "dict(type='FullAttention')"), ('mita', mita)):
        path = Path(folder, f'{name}_{twin}.py')
        path.write_text(_TWIN.format(name=name, attention=attention), encoding='utf-8')
        written.append(path)
    return written


def _column(items, brackets='()'):
    return brackets[0] + ''.join(f'\n    {item},' for item in items) + f'\n{brackets[1]}'
