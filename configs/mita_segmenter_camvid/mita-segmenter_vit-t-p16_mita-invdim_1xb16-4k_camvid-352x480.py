# Logits of landmarks times 1/d, as in the authors' published code, in place of d^-1/2.
_base_ = './mita-segmenter_vit-t-p16_mita-encdec_1xb16-4k_camvid-352x480.py'
attn_cfg = dict(landmark_scale='inverse_dim')
model = dict(backbone=dict(attn_cfg=attn_cfg), decode_head=dict(attn_cfg=attn_cfg))
