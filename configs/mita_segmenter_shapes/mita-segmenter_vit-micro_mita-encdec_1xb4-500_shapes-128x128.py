# Of the 1,024 patches each query meets 36 landmarks and the 36 keys of one expert.
_base_ = './shapes_base.py'
model = dict(
    backbone=dict(attn_cfg=dict(type='MiTAAttention', landmarks=(6, 6), topk=36, dwc=True)),
    decode_head=dict(attn_cfg=dict(type='MiTAAttention', landmarks=(6, 6), topk=36, dwc=True)),
)
