"""Parameter names of other implementations, renamed to ours and back.

| ours                            | MMSegmentation               | timm, DeiT, DINO    |
|---------------------------------|------------------------------|---------------------|
| layers.i.attn.qkv               | layers.i.attn.attn.in_proj_* | blocks.i.attn.qkv   |
| layers.i.attn.proj              | layers.i.attn.attn.out_proj  | blocks.i.attn.proj  |
| layers.i.ln1, ln2               | the same                     | blocks.i.norm1, 2   |
| layers.i.ffn.layers.0.0         | the same                     | blocks.i.mlp.fc1    |
| layers.i.ffn.layers.1           | the same                     | blocks.i.mlp.fc2    |
| patch_embed.projection          | the same                     | patch_embed.proj    |
| ln_pre (pre_norm)               | the same                     | norm_pre            |
| ln1 (final norm)                | the same                     | norm                |
"""

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn


def _compile(*pairs: tuple[str, str]) -> list[tuple[re.Pattern, str]]:
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


_FROM_MMSEG = _compile(
    (r'^(layers\.\d+\.attn)\.attn\.in_proj_(weight|bias)$', r'\1.qkv.\2'),
    (r'^(layers\.\d+\.attn)\.attn\.out_proj\.', r'\1.proj.'),
)
_FROM_TIMM = _compile(
    (r'^blocks\.(\d+)\.norm([12])\.', r'layers.\1.ln\2.'),
    (r'^blocks\.(\d+)\.mlp\.fc1\.', r'layers.\1.ffn.layers.0.0.'),
    (r'^blocks\.(\d+)\.mlp\.fc2\.', r'layers.\1.ffn.layers.1.'),
    (r'^blocks\.', 'layers.'),
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'^norm_pre\.', 'ln_pre.'),
    (r'^norm\.', 'ln1.'),
)
_TO_MMSEG = _compile(
    (r'^(layers\.\d+\.attn)\.qkv\.(weight|bias)$', r'\1.attn.in_proj_\2'),
    (r'^(layers\.\d+\.attn)\.proj\.', r'\1.attn.out_proj.'),
)


def our_name(name: str) -> str:
    """Our name of a parameter; a name that is ours already, or unknown, stays as it is."""
    return name_from_mmseg(name_from_timm(name))


def name_from_mmseg(name: str) -> str:
    """Our name of a parameter of MMSegmentation; any other name stays as it is."""
    return _rename(name, _FROM_MMSEG)


def name_from_timm(name: str) -> str:
    """Our name of a parameter of timm; any other name stays as it is."""
    return _rename(name, _FROM_TIMM)


def name_for_mmseg(name: str) -> str:
    """MMSegmentation's name of a parameter of ours; any other name stays as it is."""
    return _rename(name, _TO_MMSEG)


def _rename(name: str, pairs: list[tuple[re.Pattern, str]]) -> str:
    for pattern, replacement in pairs:
        renamed, count = pattern.subn(replacement, name)
        if count:
            return renamed
    return name


def lacks_projection_bias(key: str, keys: Collection[str]) -> bool:
    """Whether a key is the weight of a stock output projection that has no bias."""
    return key.endswith('.attn.out_proj.weight') and f'{key.removesuffix("weight")}bias' not in keys


def rename_keys(
    state_dict: Mapping[str, Tensor], prefix: str = '', own_keys: Collection[str] = ()
) -> dict[str, Tensor]:
    """Rename the weights of a stock or timm ViT, or of a stock Segmenter head, to ours.

    A stock attention without biases has none in its output projection either, where ours always has
    one: it becomes zero.

    Args:
        state_dict: Weights by name; not changed.
        prefix: What the names of this model begin with; other names stay.
        own_keys: Names that the model itself uses; they stay whatever they look like.

    Returns:
        A new dict.
    """
    renamed = {}
    for key, value in state_dict.items():
        if not key.startswith(prefix) or key in own_keys:
            renamed[key] = value
            continue
        new_key = prefix + our_name(key.removeprefix(prefix))
        renamed[new_key] = value
        is_matrix = isinstance(value, Tensor) and value.ndim == 2  # a file may hold anything
        if new_key != key and is_matrix and lacks_projection_bias(key, state_dict):
            renamed[new_key.removesuffix('weight') + 'bias'] = torch.zeros_like(value[:, 0])
    return renamed


def rename_on_load(module: nn.Module, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Apply :func:`rename_keys` in place, inside a module's ``_load_from_state_dict``.

    Torch and MMEngine both load through that method, also for a nested or wrapped module, and both
    hand it a copy of the caller's dict.
    """
    own_keys = {prefix + name for name in module.state_dict()}
    renamed = rename_keys(state_dict, prefix, own_keys)
    state_dict.clear()
    state_dict.update(renamed)
