# The same model on photographs of facades: 56x56 patches, 3,136 tokens and a class token.
_base_ = './camvid.py'
crop_size = (784, 784)
classes = (
    'balcony-fence',
    'car',
    'facade',
    'fence',
    'non-building-infrastructure',
    'shop',
    'street',
    'traffic-infrastructure',
    'vegetation',
    'window',
)
data_root = 'data/facades'
load_image = dict(type='LoadImageFromFile', _scope_='mita_seg')
load_labels = dict(type='LoadAnnotations', _scope_='mita_seg', num_classes=len(classes))
test_pipeline = [load_image, load_labels, dict(type='PackSegInputs')]
train_pipeline = [
    dict(type='CacheInMemory', transforms=[load_image, load_labels, dict(type='PackSegViews')])
]
palette = [[37 * i % 256, 97 * i % 256, 157 * i % 256] for i in range(1, len(classes) + 1)]
dataset = dict(
    _delete_=True,
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes, palette=palette),
)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/test', seg_map_path='annotations/test'),
        pipeline=test_pipeline,
    ),
)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(img_size=crop_size),
    decode_head=dict(num_classes=len(classes)),
)
