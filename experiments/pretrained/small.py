# CamVid at a size for a CPU: crops of 12x17 patches, a part of val in place of the test.
_base_ = './camvid.py'
max_iters = 400
warmup_iters = 40
crop_size = (168, 238)
data_preprocessor = dict(size=crop_size)
model = dict(data_preprocessor=data_preprocessor, backbone=dict(img_size=crop_size))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=warmup_iters, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=0.9, begin=warmup_iters, end=max_iters, by_epoch=False),
]
train_dataloader = dict(batch_size=4)
train_cfg = dict(max_iters=max_iters)
test_dataloader = dict(dataset=dict(split='val', indices=50))
