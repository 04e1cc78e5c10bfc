"""A config as somebody who never heard of MiTA wrote it: stock classes, hooks of their own."""

STOCK = {
    'type': 'EncoderDecoder',
    'data_preprocessor': {'type': 'SegDataPreProcessor', 'size': (64, 64)},
    'backbone': {
        'type': 'VisionTransformer',
        'img_size': (64, 64),
        'patch_size': 8,
        'embed_dims': 32,
        'num_layers': 2,
        'num_heads': 2,
        'out_indices': 1,
        'final_norm': True,
    },
    'decode_head': {
        'type': 'SegmenterMaskTransformerHead',
        'in_channels': 32,
        'channels': 32,
        'embed_dims': 32,
        'num_layers': 1,
        'num_heads': 2,
        'num_classes': 7,
        'dropout_ratio': 0.0,
    },
    'test_cfg': {'mode': 'whole'},
}

_MODULE = """
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

@HOOKS.register_module()
class MyHook(Hook):
    def after_run(self, runner):
        print('MyHook was here')
"""

_CONFIG = """
default_scope = 'mmseg'
custom_imports = dict(imports=['my_project'], allow_failed_imports=False)
custom_hooks = [dict(type='MyHook')]
model = {model}
_dataset = dict(
    type='BaseSegDataset', data_root={root!r}, reduce_zero_label=True,
    metainfo=dict(classes=tuple('abcdefg'), palette=[[i, i, i] for i in range(7)]),
    pipeline=[dict(type='LoadImageFromFile'),
              dict(type='LoadAnnotations', reduce_zero_label=True),
              dict(type='PackSegInputs')])
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(**_dataset, data_prefix=dict(
        img_path='images/training', seg_map_path='annotations/training')))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**_dataset, data_prefix=dict(
        img_path='images/validation', seg_map_path='annotations/validation')))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2))
"""


def write_user_config(folder, data_root):
    """Write ``your_config.py``, and ``my_project.py``, which it imports.

    The config trains a small Segmenter two iterations on the shapes data set.
    """
    (folder / 'my_project.py').write_text(_MODULE)
    path = folder / 'your_config.py'
    path.write_text(_CONFIG.format(model=STOCK, root=str(data_root)))
    return path
