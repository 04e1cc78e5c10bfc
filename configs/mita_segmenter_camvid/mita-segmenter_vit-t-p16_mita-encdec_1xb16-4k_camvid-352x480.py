_base_ = './mita-segmenter_vit-t-p16_mita-dec_1xb16-4k_camvid-352x480.py'
model = dict(
    backbone=dict(
        attn_cfg=dict(_delete_=True, type='MiTAAttention', landmarks=(6, 8), topk=48),
    ),
)
