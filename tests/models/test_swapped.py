"""MiTA put into the model of an existing config, wherever that model is built."""

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmseg.apis import init_model

from mita_seg.comparison.measure import measure
from support.user_config import STOCK

SWAPPED = {'type': 'mita_seg.models.build_swapped', 'segmentor': 'EncoderDecoder'}
ATTENTION = {'landmarks': (2, 2), 'topk': 5}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def swapped_layers(model):
    return [name for name, module in model.named_modules() if hasattr(module, 'mita')]


def test_every_layer_is_swapped_and_keeps_its_weights():
    stock = MODELS.build(STOCK).eval()
    swapped = MODELS.build({**STOCK, **SWAPPED, 'attn_cfg': ATTENTION}).eval()
    assert type(swapped) is type(stock)
    assert len(swapped_layers(swapped)) == 3 and 'topk=5' in str(swapped)
    swapped.load_state_dict(stock.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 64)
    outputs = [model(images, mode='tensor') for model in (stock, swapped)]
    assert outputs[0].shape == outputs[1].shape and not torch.allclose(*outputs)


def test_layers_may_be_chosen():
    options = {'attn_cfg': ATTENTION, 'layers': 'decode_head'}
    model = MODELS.build({**STOCK, **SWAPPED, **options})
    assert swapped_layers(model) == ['decode_head.layers.0.attn']


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        ({'attn_cfg': {'landmarks': (2, 2), 'top_k': 5}}, 'top_k'),
        ({'attn_cfg': ATTENTION, 'segmentor': 'NoSegmentor'}, 'NoSegmentor'),
        ({'attn_cfg': ATTENTION, 'layers': 'neck'}, 'neck'),
        ({}, 'attn_cfg'),
    ],
)
def test_wrong_options_are_refused(wrong, message):
    with pytest.raises((TypeError, ValueError, KeyError), match=message):
        MODELS.build({**STOCK, **SWAPPED, **wrong})


def test_comparisons_and_mmsegs_api_build_the_swapped_model(tmp_path):
    optimizer = {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.1}}
    more = {'optim_wrapper': optimizer, 'train_dataloader': {'batch_size': 2}}
    more['crop_size'] = (64, 64)
    figures = []
    for name, change in (('full', {}), ('mita', {**SWAPPED, 'attn_cfg': ATTENTION})):
        Config({'model': {**STOCK, **change}, **more}).dump(tmp_path / f'{name}.py')
        figures.append(measure(tmp_path / f'{name}.py'))
    full, mita = figures
    assert full['params'] == mita['params']
    assert full['flops_model'] != mita['flops_model']
    assert full['flops_decoder'] != mita['flops_decoder']
    assert mita['iter_ms'] > mita['latency_ms'] > 0
    assert len(swapped_layers(init_model(str(tmp_path / 'mita.py'), device='cpu'))) == 3
