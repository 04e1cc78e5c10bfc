# Two experts per query.
_base_ = './mita-segmenter_vit-t-p16_mita-encdec_1xb16-4k_camvid-352x480.py'
attn_cfg = dict(num_routed=2)
model = dict(backbone=dict(attn_cfg=attn_cfg), decode_head=dict(attn_cfg=attn_cfg))
