# 44x60 patches of 352x480 pixels.
_base_ = './mita-segmenter_vit-t-p16_full_1xb16-4k_camvid-352x480.py'
data_preprocessor = dict(test_cfg=dict(size_divisor=8))
model = dict(data_preprocessor=data_preprocessor, backbone=dict(patch_size=8))
