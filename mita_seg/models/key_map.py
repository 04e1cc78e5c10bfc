"""Parameter names of other implementations, renamed to ours while weights are loaded.

| ours                            | MMSegmentation               | timm, DeiT          |
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

_RENAMES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r'^(layers\.\d+\.attn)\.attn\.in_proj_(weight|bias)$', r'\1.qkv.\2'),
        (r'^(layers\.\d+\.attn)\.attn\.out_proj\.', r'\1.proj.'),
        (r'^blocks\.(\d+)\.norm([12])\.', r'layers.\1.ln\2.'),
        (r'^blocks\.(\d+)\.mlp\.fc1\.', r'layers.\1.ffn.layers.0.0.'),
        (r'^blocks\.(\d+)\.mlp\.fc2\.', r'layers.\1.ffn.layers.1.'),
        (r'^blocks\.', 'layers.'),
        (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
        (r'^norm_pre\.', 'ln_pre.'),
        (r'^norm\.', 'ln1.'),
    )
]


def our_name(name: str) -> str:
    """Our name of a parameter; a name that is ours already, or unknown, stays as it is."""
    for pattern, replacement in _RENAMES:
        renamed, count = pattern.subn(replacement, name)
        if count:
            return renamed
    return name


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
        stock_projection = new_key != key and key.endswith('.out_proj.weight')
        if stock_projection and key.removesuffix('weight') + 'bias' not in state_dict:
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
