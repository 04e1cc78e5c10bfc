"""Attentions and transformer blocks from configs, through MMSegmentation's registry."""

import inspect
from collections.abc import Callable
from functools import partial

from mmcv.cnn import build_activation_layer, build_norm_layer
from mmseg.registry import MODELS
from torch import nn

from mita_seg.layers import Attention, FullAttention, MiTAAttention, TransformerBlock
from mita_seg.layers.option_names import check_options

MODELS.register_module(module=FullAttention)
MODELS.register_module(module=MiTAAttention)


def build_attention(
    attn_cfg: dict,
    *,
    embed_dims: int,
    num_heads: int,
    qkv_bias: bool = True,
    proj_drop: float = 0.0,
    attn_drop: float = 0.0,
) -> nn.Module:
    """Build the attention that a config names.

    Any registered module called ``attn(x, grid, start)`` will do. Its constructor gets `embed_dims`
    and `num_heads`, and the other arguments if it takes them or if they are not at their defaults,
    so that an option it lacks is an error rather than ignored. Keys of `attn_cfg` win.

    Args:
        attn_cfg: ``dict(type=..., **options)``; not changed.
        embed_dims: Channels of the tokens.
        num_heads: Number of heads.
        qkv_bias: Give the projection to query, key and value a bias.
        proj_drop: Dropout probability after the output projection.
        attn_drop: Dropout probability of the attention weights; ours refuse any.

    Returns:
        The attention module.

    Raises:
        TypeError: `attn_cfg` is not a dict, or has an option that the attention lacks.
        ValueError: It has no type, or one that is not registered.
    """
    attention = find_attention(attn_cfg)
    accepted = inspect.signature(attention).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted)
    names = {parameter.name for parameter in accepted}
    options = {
        'qkv_bias': (qkv_bias, True),
        'proj_drop': (proj_drop, 0),
        'attn_drop': (attn_drop, 0),
    }
    passed = {
        name: value
        for name, (value, default) in options.items()
        if takes_any or name in names or value != default
    }
    return MODELS.build({**passed, 'embed_dims': embed_dims, 'num_heads': num_heads, **attn_cfg})


def find_model(kind: object) -> object:
    """What a config's ``type`` names; None for a name that nothing is registered under."""
    if not isinstance(kind, str):
        return kind
    try:
        return MODELS.get(kind)
    # MMEngine imports a package of the name before a dot, whatever it is.
    except Exception:
        return None


def find_attention(attn_cfg: dict, where: str = 'attn_cfg') -> Callable:
    """The class or function that the config of an attention names, its options checked.

    Args:
        attn_cfg: As for :func:`build_attention`.
        where: What messages call it.

    Raises:
        TypeError, ValueError: As :func:`build_attention` does.
    """
    if not isinstance(attn_cfg, dict):
        raise TypeError(f'{where} must be a dict with a type, got {attn_cfg!r}')
    kind = attn_cfg.get('type')
    attention = find_model(kind)
    if not callable(attention):
        raise ValueError(
            f'{where} must have the type of an attention registered in mmseg.registry.MODELS '
            f'(known: {", ".join(_known_attentions())}), got {kind!r}'
        )
    names = [name for name in attn_cfg if name not in ('type', '_scope_')]
    check_options(attention, names, where=where)
    return attention


def _known_attentions() -> list[str]:
    """Names of the registered attentions that derive from our base class."""
    return sorted(
        name
        for name, module in MODELS.module_dict.items()
        if inspect.isclass(module) and issubclass(module, Attention)
    )


@MODELS.register_module(name='TransformerBlock')
def build_transformer_block(
    embed_dims: int,
    attn: nn.Module | None = None,
    *,
    attn_cfg: dict | None = None,
    num_heads: int | None = None,
    qkv_bias: bool = True,
    drop: float = 0.0,
    norm_cfg: dict | None = None,
    act_cfg: dict | None = None,
    **kwargs,
) -> TransformerBlock:
    """Build a :class:`mita_seg.layers.TransformerBlock` from configs.

    Args:
        embed_dims: Channels of the tokens.
        attn: The attention itself, or None to build it from `attn_cfg`.
        attn_cfg: Config of the attention, as for :func:`build_attention`.
        num_heads: Heads of that attention.
        qkv_bias: Give its projection to query, key and value a bias.
        drop: Dropout probability after its output projection and in the feed-forward network.
        norm_cfg: Config of the normalisation; ``dict(type='LN')`` by default.
        act_cfg: Config of the activation; ``dict(type='GELU')`` by default.
        **kwargs: `mlp_ratio`, `with_ffn`, `drop_path`, `num_fcs` and `with_cp` of the block.

    Raises:
        ValueError: Not exactly one of `attn` and `attn_cfg` is given.
    """
    if (attn is None) == (attn_cfg is None):
        raise ValueError(
            f'exactly one of attn and attn_cfg must be given, got {attn=} and {attn_cfg=}'
        )
    if attn is None:
        attn = build_attention(
            attn_cfg,
            embed_dims=embed_dims,
            num_heads=num_heads,
            qkv_bias=qkv_bias,
            proj_drop=drop,
        )
    return TransformerBlock(
        embed_dims,
        attn,
        drop=drop,
        act_layer=partial(build_activation_layer, act_cfg or {'type': 'GELU'}),
        norm_layer=partial(build_norm, norm_cfg),
        **kwargs,
    )


def build_norm(norm_cfg: dict | None, channels: int) -> nn.Module:
    """Build a normalisation for `channels` channels; LayerNorm if `norm_cfg` is None."""
    return build_norm_layer(norm_cfg or {'type': 'LN'}, channels)[1]


def check_no_attention_dropout(attn_drop_rate: float) -> None:
    """Refuse attention dropout, which neither attention offers.

    Raises:
        ValueError: `attn_drop_rate` is not 0.
    """
    if attn_drop_rate:
        raise ValueError(
            f'attn_drop_rate must be 0: attention dropout is not offered, got {attn_drop_rate!r}'
        )
