# Queries, keys and values of the encoder learn at four times the rate of its other weights.
_base_ = './small.py'
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={f'backbone.layers.{i}.attn.qkv': dict(lr_mult=0.4) for i in range(12)}
    )
)
