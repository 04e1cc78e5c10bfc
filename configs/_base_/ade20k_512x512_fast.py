# The same training without the waits: the loader's processes only decode, the GPU augments, the
# training pass is compiled to CUDA graphs, in bfloat16, and losses are read every 50 iterations.
_base_ = './ade20k_512x512_stock.py'
custom_imports = dict(imports=['mita_seg.models', 'mita_seg.datasets', 'mita_seg.engine'])
train_pipeline = [_base_.load_image, _base_.load_labels, dict(type='PackSegViews')]
train_dataloader = dict(
    pin_memory=True,
    collate_fn=dict(type='join_samples'),
    dataset=dict(pipeline=train_pipeline),
)
data_preprocessor = dict(
    type='BatchSegDataPreProcessor',
    scale=(2048, 512),
    ratio_range=(0.5, 2.0),
    cat_max_ratio=0.75,
)
model = dict(type='CompiledEncoderDecoder', data_preprocessor=data_preprocessor)
optim_wrapper = dict(type='BFloat16OptimWrapper', optimizer=dict(fused=True))
default_hooks = dict(runtime_info=dict(type='DeferredRuntimeInfoHook'))
# On several GPUs: gradients are averaged when backward has ended.
model_wrapper_cfg = dict(type='FlatDataParallel')
