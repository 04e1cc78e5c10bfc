"""The steps of a conversion, in order."""

from collections.abc import Callable, Mapping, Sequence

import torch

from .augreg import from_augreg
from .conversion import Conversion
from .key_map import lacks_projection_bias, name_from_mmseg, name_from_timm
from .layer_scale import fold_layer_scale
from .mita_deit import PUBLISHED_ATTENTION, split_gate
from .position_embedding import fit_position_embedding
from .settings import backbone_prefix, find_missing, is_standard, model_settings
from .soundness import check_weights
from .sources import bare_name, check_source, find_other_entries, find_weights
from .special_tokens import settle_special_tokens
from .target import to_mmseg

TARGETS = ('mita_seg', 'mmseg')

_PARTS = ('backbone.', 'decode_head.')
# Ends of classifiers and of self-supervised training, by what their names begin with.
_NOT_BACKBONE = {
    'of a classifier or a projection head': (
        'head.',
        'head/',
        'head_dist.',
        'fc.',
        'fc_norm.',
        'pre_logits.',
        'pre_logits/',
        'attn_pool.',
    ),
    'used in pretraining only': ('mask_token',),
}


def convert(
    checkpoint: Mapping,
    source: str = 'auto',
    target: str = 'mita_seg',
    *,
    img_size: Sequence[int] | None = None,
) -> Conversion:
    """Convert the weights of a checkpoint.

    The weights of a backbone, or those of a segmentor in the layouts ``mmseg`` and ``mita_seg``.
    Tensors keep their dtype and, where only names and shapes differ, their bits: ``mmseg`` to
    ``mita_seg`` and back returns the same weights.

    Args:
        checkpoint: Weights by name, alone or as ``state_dict``, ``model`` or ``teacher``.
        source: Layout of the checkpoint, one of ``SOURCES``, or ``'auto'`` to tell by its names.
        target: Layout wanted, ``'mita_seg'`` or ``'mmseg'``.
        img_size: Image size (height, width), pixels, that the position embedding is resized to;
            None leaves it as it is.

    Returns:
        The weights and an account of every name.

    Raises:
        ValueError: The layout is not known or not the one named, the weights contradict themselves,
            or the target cannot hold them.
    """
    if target not in TARGETS:
        raise ValueError(f'target must be {" or ".join(TARGETS)}, got {target!r}')
    weights = find_weights(checkpoint)
    check_weights(weights)
    conversion = Conversion(check_source(checkpoint, source), weights)
    conversion.left_aside = find_other_entries(checkpoint)
    try:
        _convert(conversion, target, img_size)
    # Torch's, of shapes that do not go together.
    except (RuntimeError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f'the weights contradict each other: {error}') from error
    return conversion


def _convert(conversion: Conversion, target: str, img_size: Sequence[int] | None) -> None:
    for name in list(conversion.weights):
        conversion.rename(name, bare_name(name, conversion.source))

    if conversion.source == 'mmseg':
        _add_projection_biases(conversion)
        _rename_parts(conversion, name_from_mmseg)
    elif conversion.source != 'mita_seg':
        if conversion.source == 'augreg-npz':
            from_augreg(conversion)
        _rename_parts(conversion, name_from_timm)
        split_gate(conversion)
        fold_layer_scale(conversion)
        settle_special_tokens(conversion)
    _leave_out_heads(conversion)
    _refuse_gated_feed_forward(conversion)
    _describe(conversion)

    if img_size is not None:
        _resize(conversion, img_size)
    if target == 'mmseg':
        to_mmseg(conversion)


def _rename_parts(conversion: Conversion, rename: Callable[[str], str]) -> None:
    for name in list(conversion.weights):
        part = next((part for part in _PARTS if name.startswith(part)), '')
        conversion.rename(name, part + rename(name.removeprefix(part)))


def _add_projection_biases(conversion: Conversion) -> None:
    """A stock attention without biases has no output bias, where ours has one: it is zero."""
    for name, value in list(conversion.weights.items()):
        if lacks_projection_bias(name, conversion.weights):
            bias = torch.zeros_like(value[:, 0])
            conversion.replace([name], {name: value, name.removesuffix('weight') + 'bias': bias})


def _leave_out_heads(conversion: Conversion) -> None:
    for name in list(conversion.weights):
        for why, beginnings in _NOT_BACKBONE.items():
            if name.startswith(beginnings):
                conversion.leave_out(name, why)


def _refuse_gated_feed_forward(conversion: Conversion) -> None:
    """SwiGLU would load into ours in part, or not at all, and compute something else."""
    for name, value in conversion.weights.items():
        swiglu = name.endswith('.mlp.w12.weight')  # as DINOv2 has it
        if name.endswith('.ffn.layers.0.0.weight'):  # as timm has it
            last = conversion.weights.get(name.removesuffix('0.0.weight') + '1.weight')
            swiglu = last is not None and last.shape[1] * 2 == value.shape[0]
        if swiglu:
            raise ValueError(f'{name} is of a gated (SwiGLU) feed-forward network; ours is an MLP')


def _describe(conversion: Conversion) -> None:
    prefix = backbone_prefix(conversion.weights)
    backbone = {
        name.removeprefix(prefix): value
        for name, value in conversion.weights.items()
        if name.startswith(prefix) and not name.startswith('decode_head.')
    }
    conversion.settings |= model_settings(backbone)
    conversion.missing = {prefix + name: hint for name, hint in find_missing(backbone).items()}
    conversion.foreign = [prefix + name for name in backbone if not is_standard(name)]
    if conversion.source == 'mita-deit':
        variant = conversion.settings.get('attn_cfg', {})
        conversion.settings['attn_cfg'] = {**variant, **PUBLISHED_ATTENTION}


def _resize(conversion: Conversion, img_size: Sequence[int]) -> None:
    prefix = backbone_prefix(conversion.weights)
    key, patch = f'{prefix}pos_embed', conversion.settings.get('patch_size')
    if key not in conversion.weights or patch is None:
        raise ValueError('img_size needs the weights pos_embed and patch_embed.projection.weight')
    grid = tuple(size // patch for size in img_size)
    if len(grid) != 2 or min(grid) < 1:
        raise ValueError(
            f'img_size must be (height, width), at least one patch of {patch} pixels each, '
            f'got {tuple(img_size)}'
        )
    before = conversion.weights[key]
    conversion.weights[key] = fit_position_embedding(before, grid)
    if conversion.weights[key] is not before:
        conversion.notes.append(
            f'The position embedding is resized from {before.shape[1] - 1} patches to '
            f'{grid[0]}x{grid[1]} (bicubic).'
        )
    conversion.settings['img_size'] = tuple(img_size)
