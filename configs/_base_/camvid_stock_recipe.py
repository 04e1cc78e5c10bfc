# CamVid's training as MMSegmentation's own parts do it, to measure what this repository's recipe
# gains: processes that load and augment, a loss scaler, a log that reads every loss, no CUDA
# graphs. Layers, learning rate, schedule, batch and crop stay. `fused=None` leaves the kernels of
# AdamW to PyTorch, as a config without the key does; False would forbid the foreach ones too.
stock_recipe = dict(
    model=dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            _delete_=True,
            type='SegDataPreProcessor',
            mean=[127.5, 127.5, 127.5],
            std=[127.5, 127.5, 127.5],
            bgr_to_rgb=True,
            pad_val=0,
            seg_pad_val=255,
            size=(352, 480),
            test_cfg=dict(size_divisor=16),
        ),
    ),
    train_dataloader=dict(
        num_workers=4,
        persistent_workers=True,
        collate_fn=dict(type='pseudo_collate'),
        dataset=dict(
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                dict(
                    type='RandomResize', scale=(480, 360), ratio_range=(0.5, 2.0), keep_ratio=True
                ),
                dict(type='RandomCrop', crop_size=(352, 480), cat_max_ratio=0.75),
                dict(type='RandomFlip', prob=0.5),
                dict(type='PhotoMetricDistortion'),
                dict(type='PackSegInputs'),
            ],
        ),
    ),
    optim_wrapper=dict(type='AmpOptimWrapper', dtype='bfloat16', optimizer=dict(fused=None)),
    default_hooks=dict(runtime_info=dict(_delete_=True, type='RuntimeInfoHook')),
)
