# Each landmark pools a square of about 6.3x6.7 patches. A query meets 126 of some 2,650 keys.
_base_ = './mita-segmenter_vit-t-p8_full_1xb16-4k_camvid-352x480.py'
model = dict(
    backbone=dict(
        attn_cfg=dict(_delete_=True, type='MiTAAttention', landmarks=(7, 9), topk=63),
    ),
    decode_head=dict(
        attn_cfg=dict(_delete_=True, type='MiTAAttention', landmarks=(7, 9), topk=63),
    ),
)
