"""Random weights of a small vision transformer in the layouts of other implementations."""

import torch

from mita_seg.conversion import convert

WIDTH, HEADS, LAYERS, PATCH, GRID = 32, 2, 2, 8, 4
MODEL = {
    'img_size': PATCH * GRID,
    'patch_size': PATCH,
    'embed_dims': WIDTH,
    'num_layers': LAYERS,
    'num_heads': HEADS,
    'final_norm': True,
    'norm_cfg': {'type': 'LN', 'eps': 1e-6},
    'attn_cfg': {'type': 'FullAttention'},
}


def linear(rows, columns):
    return {'weight': torch.randn(rows, columns), 'bias': torch.randn(rows)}


def norm():
    return {'weight': 1 + torch.randn(WIDTH), 'bias': torch.randn(WIDTH)}


def flatten(modules):
    return {f'{name}.{kind}': w for name, kinds in modules.items() for kind, w in kinds.items()}


def timm_vit(*, entries=1, layer_scale=None, classifier=True):
    """Weights under timm's names; `entries` of the position embedding are not the patches'."""
    modules = {
        'patch_embed.proj': {
            'weight': torch.randn(WIDTH, 3, PATCH, PATCH),
            'bias': torch.randn(WIDTH),
        },
        'norm': norm(),
    }
    for i in range(LAYERS):
        modules |= {
            f'blocks.{i}.norm1': norm(),
            f'blocks.{i}.attn.qkv': linear(3 * WIDTH, WIDTH),
            f'blocks.{i}.attn.proj': linear(WIDTH, WIDTH),
            f'blocks.{i}.norm2': norm(),
            f'blocks.{i}.mlp.fc1': linear(4 * WIDTH, WIDTH),
            f'blocks.{i}.mlp.fc2': linear(WIDTH, 4 * WIDTH),
        }
    if classifier:
        modules['head'] = linear(10, WIDTH)
    weights = {
        'cls_token': torch.randn(1, 1, WIDTH),
        'pos_embed': torch.randn(1, entries + GRID**2, WIDTH),
        **flatten(modules),
    }
    if layer_scale:
        for i in range(LAYERS):
            for branch in (1, 2):
                weights[f'blocks.{i}.' + layer_scale.format(branch)] = torch.randn(WIDTH)
    return weights


def dinov2(registers=0):
    """Weights as DINOv2 publishes them."""
    weights = timm_vit(layer_scale='ls{}.gamma', classifier=False)
    weights['mask_token'] = torch.zeros(1, WIDTH)
    if registers:
        weights['register_tokens'] = torch.randn(1, registers, WIDTH)
    return weights


def mita_deit(*, dwc=True, gate=False):
    """Weights as the authors of MiTA publish them."""
    weights = timm_vit()
    for i in range(LAYERS):
        if gate:
            for kind in ('weight', 'bias'):
                qkv = weights.pop(f'blocks.{i}.attn.qkv.{kind}')
                weights[f'blocks.{i}.attn.qkvg.{kind}'] = torch.cat(
                    (qkv, torch.randn_like(qkv[:WIDTH]))
                )
        if dwc:
            weights[f'blocks.{i}.attn.dwc.weight'] = torch.randn(WIDTH, 1, 3, 3)
            weights[f'blocks.{i}.attn.dwc.bias'] = torch.randn(WIDTH)
    return weights


def augreg():
    """Weights in the JAX layout, as numpy arrays."""
    per_head = WIDTH // HEADS
    weights = {
        'cls': torch.randn(1, 1, WIDTH),
        'Transformer/posembed_input/pos_embedding': torch.randn(1, 1 + GRID**2, WIDTH),
        'embedding/kernel': torch.randn(PATCH, PATCH, 3, WIDTH),
        'embedding/bias': torch.randn(WIDTH),
        'Transformer/encoder_norm/scale': torch.randn(WIDTH),
        'Transformer/encoder_norm/bias': torch.randn(WIDTH),
        'head/kernel': torch.randn(WIDTH, 10),
        'head/bias': torch.randn(10),
        'pre_logits/kernel': torch.randn(WIDTH, WIDTH),
    }
    for i in range(LAYERS):
        block = f'Transformer/encoderblock_{i}/'
        attention = block + 'MultiHeadDotProductAttention_1/'
        for part in ('query', 'key', 'value'):
            weights[f'{attention}{part}/kernel'] = torch.randn(WIDTH, HEADS, per_head)
            weights[f'{attention}{part}/bias'] = torch.randn(HEADS, per_head)
        weights[f'{attention}out/kernel'] = torch.randn(HEADS, per_head, WIDTH)
        weights[f'{attention}out/bias'] = torch.randn(WIDTH)
        for name, columns, rows in (('Dense_0', WIDTH, 4 * WIDTH), ('Dense_1', 4 * WIDTH, WIDTH)):
            weights[f'{block}MlpBlock_3/{name}/kernel'] = torch.randn(columns, rows)
            weights[f'{block}MlpBlock_3/{name}/bias'] = torch.randn(rows)
        for layer_norm in ('LayerNorm_0', 'LayerNorm_2'):
            weights[f'{block}{layer_norm}/scale'] = torch.randn(WIDTH)
            weights[f'{block}{layer_norm}/bias'] = torch.randn(WIDTH)
    return {name: value.numpy() for name, value in weights.items()}


def augreg_tensors():
    """Weights in the JAX layout, as tensors."""
    return {name: torch.from_numpy(value) for name, value in augreg().items()}


def ours():
    """Weights under our names."""
    return convert(timm_vit(classifier=False)).weights


def mmseg():
    """Weights under the names of MMSegmentation's VisionTransformer."""
    return convert(timm_vit(classifier=False), target='mmseg').weights
