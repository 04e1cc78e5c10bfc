"""Damaged and hostile files end in a sentence that names the weight."""

import pytest
import torch

from mita_seg.conversion import convert
from support import conversion_cases as cases
from support.conversion_cases import WIDTH


@pytest.mark.parametrize(
    'name', ['blocks.1000000.mlp.fc2.bias', 'backbone.layers.1000000.ln1.weight']
)
def test_layer_beyond_all_weights_is_refused_at_once(name):
    weights = cases.mmseg() if name.startswith('backbone') else cases.timm_vit()
    prefix = 'backbone.' if name.startswith('backbone') else ''
    weights = {prefix + key: value for key, value in weights.items()}
    with pytest.raises(ValueError, match='would be of layer 1000000'):
        convert({**weights, name: torch.zeros(WIDTH)})


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    'name, value, message',
    [
        (1, torch.zeros(1), 'names of weights must be text, got 1'),
        ('norm.weight', torch.tensor(1.0), r'norm.weight must have 1 dimensions, got shape \[\]'),
        ('cls_token', torch.zeros(WIDTH), r'cls_token must have 3 dimensions'),
        ('pos_embed', torch.zeros(0, 17, WIDTH), r'pos_embed of shape \[0, 17, 32\] is empty'),
        ('blocks.0.attn.qkv.weight', torch.zeros(WIDTH), 'qkv.weight must have 2 dimensions'),
        ('blocks.0.mlp.fc1.weight', torch.zeros(4, WIDTH).to_sparse(), 'fc1.weight is a sparse'),
        (
            'blocks.0.mlp.fc1.weight',
            torch.quantize_per_tensor(torch.zeros(4, WIDTH), 0.1, 0, torch.qint8),
            'fc1.weight is a sparse, nested or quantised',
        ),
        ('norm.bias', torch.zeros(1).expand(10**13), 'norm.bias of shape .* has fewer values'),
        ('norm.bias', torch.zeros(WIDTH, device='meta'), 'norm.bias of shape .* has fewer values'),
        ('blocks.0.ls1.gamma', torch.zeros(3), 'the weights contradict each other: The size of'),
    ],
)
def test_weight_that_is_not_what_its_name_says(name, value, message):
    with pytest.raises(ValueError, match=message):
        convert({**cases.timm_vit(), name: value})
