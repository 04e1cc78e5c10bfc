# For weights of full attention: landmarks of queries that are alike, a remainder in place of the
# shared expert with as many products, and full attention at first.
_base_ = './mita-segmenter_vit-b_mita-encdec_8xb1-160k_ade20k-512x512.py'
model = dict(
    backbone=dict(attn_cfg=dict(topk=72, kmeans_steps=1, shared=False, remainder=True)),
    decode_head=dict(attn_cfg=dict(topk=72, kmeans_steps=1, shared=False, remainder=True)),
)
default_hooks = dict(anneal=dict(type='mita_seg.engine.AnnealMiTAHook', end=40000))
