"""What weights under our names say about the model that they are for."""

import re
from collections.abc import Mapping

from torch import Tensor

from .position_embedding import square_side

_BLOCK = tuple(
    f'{part}.{kind}'
    for part in ('ln1', 'attn.qkv', 'attn.proj', 'ln2', 'ffn.layers.0.0', 'ffn.layers.1')
    for kind in ('weight', 'bias')
)
_STANDARD = re.compile(
    r'cls_token|pos_embed|register_tokens'
    r'|(patch_embed\.(projection|norm)|ln_pre|ln1)\.(weight|bias)'
    r'|layers\.\d+\.(ln1|ln2|attn\.(qkv|proj|q_norm|k_norm|dwc|gate)|ffn\.layers\.(\d+\.0|\d+))'
    r'\.(weight|bias)'
)
# A name that may be absent -> the setting of a model without it.
_OPTIONAL = {
    'cls_token': 'with_cls_token=False',
    'patch_embed.projection.bias': 'patch_bias=False',
    'ln1.weight': 'final_norm=False',
    'ln1.bias': 'final_norm=False',
    'attn.qkv.bias': 'qkv_bias=False',
}


def backbone_prefix(weights: Mapping[str, Tensor]) -> str:
    """What the backbone's names begin with: ``backbone.`` in a segmentor."""
    return 'backbone.' if any(name.startswith('backbone.') for name in weights) else ''


def is_standard(name: str) -> bool:
    """Whether MiTAVisionTransformer, with one of our attentions, can have such a parameter."""
    return _STANDARD.fullmatch(name) is not None


def find_missing(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """List what a vision transformer usually has and these weights have not.

    Args:
        weights: A backbone's, under our names.

    Returns:
        Name -> what its absence means.

    Raises:
        ValueError: There are more layers than weights.
    """
    num_layers = _count_layers(weights)
    expected = [
        'cls_token',
        'pos_embed',
        'patch_embed.projection.weight',
        'patch_embed.projection.bias',
        *(f'layers.{i}.{name}' for i in range(num_layers) for name in _BLOCK),
        'ln1.weight',
        'ln1.bias',
    ]
    missing = {}
    for name in expected:
        if num_layers and name not in weights:
            setting = _OPTIONAL.get(
                re.sub(r'^layers\.\d+\.', '', name) if '.attn.' in name else name
            )
            missing[name] = (
                f'fits a model with {setting}' if setting else 'a model keeps its initial value'
            )
    return missing


def model_settings(weights: Mapping[str, Tensor]) -> dict[str, object]:
    """Arguments of MiTAVisionTransformer that these weights call for.

    The number of heads and the epsilon of the normalisations are not among them: no weight's shape
    depends on them.

    Args:
        weights: A backbone's, under our names.

    Returns:
        Arguments by name; those that have their usual value are left out where they are many.
    """
    settings: dict[str, object] = {}
    num_layers = _count_layers(weights)
    patch = weights.get('patch_embed.projection.weight')  # [C, in, p, p]
    position = weights.get('pos_embed')
    if not num_layers or patch is None or patch.ndim != 4:
        return settings
    if position is not None:
        side = square_side(position.shape[1] - 1)
        if side:
            settings['img_size'] = (side * patch.shape[2],) * 2
    settings['patch_size'] = patch.shape[2]
    settings['embed_dims'] = patch.shape[0]
    settings['num_layers'] = num_layers
    settings['patch_bias'] = 'patch_embed.projection.bias' in weights
    settings['final_norm'] = 'ln1.weight' in weights
    hidden = weights.get('layers.0.ffn.layers.0.0.weight')
    unusual: dict[str, tuple[object, object]] = {
        'in_channels': (patch.shape[1], 3),
        'mlp_ratio': (4 if hidden is None else hidden.shape[0] / patch.shape[0], 4),
        'pre_norm': ('ln_pre.weight' in weights, False),
        'qkv_bias': ('layers.0.attn.qkv.bias' in weights, True),
        'with_cls_token': ('cls_token' in weights, True),
        'num_registers': (
            weights['register_tokens'].shape[1] if 'register_tokens' in weights else 0,
            0,
        ),
    }
    settings |= {name: value for name, (value, usual) in unusual.items() if value != usual}
    options = {'qk_norm': 'q_norm', 'dwc': 'dwc', 'gate': 'gate'}
    attn_cfg = {o: True for o, part in options.items() if f'layers.0.attn.{part}.weight' in weights}
    if attn_cfg:
        settings['attn_cfg'] = {'type': 'MiTAAttention', **attn_cfg}
    return settings


def _count_layers(weights: Mapping[str, Tensor]) -> int:
    names = {name: re.match(r'layers\.(\d{1,9})\.', name) for name in weights}
    indices = {name: int(match[1]) for name, match in names.items() if match}
    if not indices:
        return 0
    last = max(indices, key=lambda name: indices[name])
    if indices[last] >= len(weights):
        raise ValueError(
            f'{last} would be of layer {indices[last]}, but there are {len(weights)} weights in all'
        )
    return indices[last] + 1
