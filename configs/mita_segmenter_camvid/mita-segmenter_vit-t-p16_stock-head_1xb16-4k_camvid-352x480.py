# MMSegmentation's own head, whose attention is nn.MultiheadAttention and whose loss waits.
_base_ = './mita-segmenter_vit-t-p16_full_1xb16-4k_camvid-352x480.py'
model = dict(
    decode_head=dict(
        _delete_=True,
        type='SegmenterMaskTransformerHead',
        in_channels=192,
        channels=192,
        num_classes=11,
        num_layers=2,
        num_heads=3,
        embed_dims=192,
        drop_path_rate=0.0,
        dropout_ratio=0.0,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
