# mita-encdec trained by MMSegmentation's stock recipe.
_base_ = [
    './mita-segmenter_vit-t-p16_mita-encdec_1xb16-4k_camvid-352x480.py',
    '../_base_/camvid_stock_recipe.py',
]
model = _base_.stock_recipe.model
data_preprocessor = model.data_preprocessor
train_dataloader = _base_.stock_recipe.train_dataloader
optim_wrapper = _base_.stock_recipe.optim_wrapper
default_hooks = _base_.stock_recipe.default_hooks
