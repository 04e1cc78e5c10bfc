"""The attention settings of a config, checked before anything is built from it."""

import torch

from mita_seg.layers import Attention, FullAttention, MiTAAttention
from mita_seg.swap.mixer import build_bare_attention

from .builder import find_attention, find_model
from .swapped import build_swapped


def check_attention_configs(config, where: str = 'model') -> None:
    """Refuse every ``attn_cfg`` in a config from which no attention can be built.

    Args:
        config: The config of a model, or anything in one.
        where: Its name in the whole config.

    Raises:
        TypeError: An option that the attention lacks, or of the wrong type.
        ValueError: No registered type, or a value out of range.
    """
    if isinstance(config, list | tuple):
        for index, part in enumerate(config):
            check_attention_configs(part, f'{where}[{index}]')
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        place = f'{where}.{key}'
        if key != 'attn_cfg':
            check_attention_configs(value, place)
            continue
        for index, attn_cfg in enumerate(value if isinstance(value, list | tuple) else [value]):
            _check(attn_cfg, config, f'{place}[{index}]' if value is not attn_cfg else place)


def _check(attn_cfg, owner: dict, where: str) -> None:
    kind = owner.get('type')
    kind = find_model(kind)
    if kind is build_swapped:
        _name_place(where, build_bare_attention, attn_cfg, 1, 8)
        return
    ours = getattr(kind, '__module__', '').startswith('mita_seg.')
    if attn_cfg is None or not (ours or _names_ours(attn_cfg)):
        return  # stock models have settings of this name, too
    attention = find_attention(attn_cfg, where)
    if attention in (FullAttention, MiTAAttention):
        options = {key: value for key, value in attn_cfg.items() if key not in ('type', '_scope_')}
        num_heads = options.pop('num_heads', 1)
        embed_dims = options.pop('embed_dims', 8 * num_heads)
        with torch.device('meta'):
            _name_place(where, attention, embed_dims, num_heads, **options)


def _names_ours(attn_cfg) -> bool:
    kind = attn_cfg.get('type') if isinstance(attn_cfg, dict) else None
    kind = find_model(kind)
    return isinstance(kind, type) and issubclass(kind, Attention)


def _name_place(where: str, build, *args, **kwargs) -> None:
    """Try to build something; a message that tells no place gets one."""
    try:
        build(*args, **kwargs)
    except (TypeError, ValueError) as error:
        message = str(error).removeprefix('attn_cfg: ')
        raise type(error)(f'{where}: {message}') from error
