_base_ = './shapes_base.py'
model = dict(
    backbone=dict(attn_cfg=dict(type='FullAttention', dwc=True)),
    decode_head=dict(attn_cfg=dict(type='FullAttention', dwc=True)),
)
