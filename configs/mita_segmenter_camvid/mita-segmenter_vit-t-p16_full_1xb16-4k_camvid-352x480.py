# 22x30 patches of 352x480 pixels, from scratch. The other configs of this folder build on this one.
_base_ = [
    '../_base_/models/mita_segmenter_vit.py',
    '../_base_/datasets/camvid_352x480.py',
    '../_base_/schedules/schedule_4k_adamw.py',
    '../_base_/default_runtime.py',
]
custom_imports = dict(imports=['mita_seg.models', 'mita_seg.datasets', 'mita_seg.engine'])
data_preprocessor = dict(_delete_=True, **_base_.batch_preprocessor)
model = dict(
    type='CompiledEncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(img_size=(352, 480), drop_path_rate=0.0, pos_embed_init='sine_cosine'),
    decode_head=dict(num_classes=11, drop_path_rate=0.0),
    test_cfg=dict(_delete_=True, mode='whole'),
)
