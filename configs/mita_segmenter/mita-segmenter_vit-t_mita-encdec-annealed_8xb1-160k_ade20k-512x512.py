# Full attention at first, for whose weights it is; MiTA attention after a quarter of the training.
_base_ = './mita-segmenter_vit-t_mita-encdec_8xb1-160k_ade20k-512x512.py'
default_hooks = dict(anneal=dict(type='mita_seg.engine.AnnealMiTAHook', end=40000))
