# The paper's decoder: three layers without a feed-forward network, 36 landmarks and top-36 keys.
_base_ = './mita-segmenter_vit-b_mita-dec_8xb1-160k_ade20k-512x512.py'
model = dict(decode_head=dict(num_layers=3, with_ffn=False))
