# Of the 1,024 patches each query meets 16 landmarks and the 16 keys of one expert.
_base_ = './shapes_base.py'
model = dict(
    backbone=dict(attn_cfg=dict(type='MiTAAttention', landmarks=(4, 4), topk=16, dwc=True)),
    decode_head=dict(attn_cfg=dict(type='MiTAAttention', landmarks=(4, 4), topk=16, dwc=True)),
)
