# Each landmark pools a square of about 3.7x3.7 patches; an expert holds as many keys as there are
# landmarks, as in the paper. A query meets 96 of some 670 keys.
_base_ = './mita-segmenter_vit-t-p16_full_1xb16-4k_camvid-352x480.py'
model = dict(
    decode_head=dict(
        attn_cfg=dict(_delete_=True, type='MiTAAttention', landmarks=(6, 8), topk=48),
    ),
)
