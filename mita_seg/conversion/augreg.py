"""The JAX layout of the original ViT and AugReg checkpoints (``.npz``).

Source: Dosovitskiy et al., arXiv 2010.11929, and Steiner et al., arXiv 2106.10270. There a linear
layer's kernel is [in, out], that of a convolution [h, w, in, out], query, key and value are apart
and have a heads axis.
"""

import re

import torch
from torch import Tensor

from .conversion import Conversion

_BLOCK = r'Transformer/encoderblock_(\d+)/'
_ATTENTION = _BLOCK + r'MultiHeadDotProductAttention_1/'
_RENAMES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r'cls', 'cls_token'),
        (r'Transformer/posembed_input/pos_embedding', 'pos_embed'),
        (r'embedding/(kernel|bias)', r'patch_embed.proj.\1'),
        (r'Transformer/encoder_norm/(scale|bias)', r'norm.\1'),
        (_BLOCK + r'LayerNorm_0/(scale|bias)', r'blocks.\1.norm1.\2'),
        (_BLOCK + r'LayerNorm_2/(scale|bias)', r'blocks.\1.norm2.\2'),
        (_BLOCK + r'MlpBlock_3/Dense_0/(kernel|bias)', r'blocks.\1.mlp.fc1.\2'),
        (_BLOCK + r'MlpBlock_3/Dense_1/(kernel|bias)', r'blocks.\1.mlp.fc2.\2'),
        (_ATTENTION + r'out/(kernel|bias)', r'blocks.\1.attn.proj.\2'),
    )
]
_QUERY = re.compile(_ATTENTION + r'query/(kernel|bias)')


def from_augreg(conversion: Conversion) -> None:
    """Give JAX weights timm's names and shapes, query, key and value joined, in place.

    Raises:
        ValueError: A name is no part of a plain ViT.
    """
    for name in list(conversion.weights):
        query = _QUERY.fullmatch(name)
        if query:
            _join(conversion, name, *query.groups())
    for name, value in list(conversion.weights.items()):
        if name.startswith(('blocks.', 'head/', 'pre_logits/')):
            continue
        for pattern, replacement in _RENAMES:
            if pattern.fullmatch(name):
                new_name = re.sub(r'\.(kernel|scale)$', '.weight', pattern.sub(replacement, name))
                conversion.replace([name], {new_name: _torch_layout(new_name, value)})
                break
        else:
            raise ValueError(
                f'{name} is no part of a plain ViT (of one with a convolutional stem, perhaps)'
            )


def _join(conversion: Conversion, query: str, block: str, kind: str) -> None:
    names = [query.replace('/query/', f'/{part}/') for part in ('query', 'key', 'value')]
    absent = [name for name in names if name not in conversion.weights]
    if absent:
        raise ValueError(f'{query} is there but {", ".join(absent)} is not')
    parts = [conversion.weights[name] for name in names]
    if kind == 'kernel':
        conversion.settings['num_heads'] = parts[0].shape[1]  # [C, H, d]
        joined = torch.cat([part.flatten(1).T for part in parts])  # [3C, C]
    else:
        joined = torch.cat([part.flatten() for part in parts])  # [3C]
    ending = 'weight' if kind == 'kernel' else 'bias'
    conversion.replace(names, {f'blocks.{block}.attn.qkv.{ending}': joined})


def _torch_layout(new_name: str, value: Tensor) -> Tensor:
    if new_name == 'patch_embed.proj.weight':
        return value.permute(3, 2, 0, 1)
    if new_name.endswith('attn.proj.weight'):
        return value.flatten(0, 1).T  # [H, d, C] to [C, C]
    if new_name.endswith(('fc1.weight', 'fc2.weight')):
        return value.T
    return value
