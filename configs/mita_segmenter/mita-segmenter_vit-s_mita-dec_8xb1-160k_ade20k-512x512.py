_base_ = './mita-segmenter_vit-s_full_8xb1-160k_ade20k-512x512.py'
model = dict(
    decode_head=dict(
        attn_cfg=dict(_delete_=True, type='MiTAAttention', landmarks=(6, 6), topk=36),
    ),
)
