"""The steps of a conversion, in order."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch

from .augreg import from_augreg
from .conversion import Conversion
from .key_map import lacks_projection_bias, name_from_mmseg, name_from_timm
from .layer_scale import fold_layer_scale
from .mita_deit import PUBLISHED_ATTENTION, split_gate
from .position_embedding import (
    find_grid,
    guess_message,
    resize_position_embedding,
    said_grid,
    say_grid,
)
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
    pretrained_size: Sequence[int] | None = None,
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
        pretrained_size: Image size (height, width), pixels, that the position embedding is for,
            where the checkpoint does not say it and the image is no square.

    Returns:
        The weights and an account of every name.

    Raises:
        ValueError: The layout is not known or not the one named, the weights contradict themselves,
            or the target has no place for them.
    """
    if target not in TARGETS:
        raise ValueError(f'target must be {" or ".join(TARGETS)}, got {target!r}')
    weights = find_weights(checkpoint)
    check_weights(weights)
    conversion = Conversion(check_source(checkpoint, source), weights)
    conversion.left_aside = find_other_entries(checkpoint)
    try:
        _convert(conversion, target, img_size, pretrained_size)
    # Raised by torch for shapes that do not fit each other.
    except (RuntimeError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f'the weights contradict each other: {error}') from error
    return conversion


def _convert(
    conversion: Conversion,
    target: str,
    img_size: Sequence[int] | None,
    pretrained_size: Sequence[int] | None,
) -> None:
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
        settle_special_tokens(conversion, _grid(conversion, 'pretrained_size', pretrained_size))
    _leave_out_heads(conversion)
    _refuse_gated_feed_forward(conversion)
    _describe(conversion)

    _settle_grid(
        conversion,
        _grid(conversion, 'img_size', img_size),
        _grid(conversion, 'pretrained_size', pretrained_size),
    )
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
        variant = cast(dict, conversion.settings.get('attn_cfg', {}))
        conversion.settings['attn_cfg'] = {**variant, **PUBLISHED_ATTENTION}


def _grid(conversion: Conversion, name: str, size: Sequence[int] | None) -> tuple[int, int] | None:
    """The patch grid of an image size (height, width), None if there is none."""
    if size is None:
        return None
    prefix = backbone_prefix(conversion.weights)
    kernel = conversion.weights.get(f'{prefix}patch_embed.projection.weight')
    if f'{prefix}pos_embed' not in conversion.weights or kernel is None:
        raise ValueError(f'{name} needs the weights pos_embed and patch_embed.projection.weight')
    patch = kernel.shape[-1]
    grid = tuple(pixels // patch for pixels in size)
    if len(grid) != 2 or min(grid) < 1:
        raise ValueError(
            f'{name} must be (height, width), at least one patch of {patch} pixels each, '
            f'got {tuple(size)}'
        )
    return grid


def _settle_grid(
    conversion: Conversion,
    new_grid: tuple[int, int] | None,
    pretrained: tuple[int, int] | None,
) -> None:
    """Resize the position embedding if `new_grid` is given; let the weights say its grid."""
    prefix = backbone_prefix(conversion.weights)
    key, said = f'{prefix}pos_embed', said_grid(conversion.weights, prefix)
    before = conversion.weights.get(key)
    wanted = new_grid or pretrained or said
    if before is None or wanted is None:
        return
    grid, guessed = find_grid(before, wanted, said, pretrained)
    if guessed:
        conversion.notes.append(f'{guess_message(grid)}.')
    if new_grid is not None:
        if grid != new_grid:
            conversion.weights[key] = resize_position_embedding(before, grid, new_grid)
            conversion.notes.append(
                f'The position embedding is resized from {before.shape[1] - 1} patches to '
                f'{new_grid[0]}x{new_grid[1]} (bicubic).'
            )
        grid = new_grid
    conversion.weights = say_grid(conversion.weights, grid, prefix)
    patch = cast('int | None', conversion.settings.get('patch_size'))
    if patch is not None:
        conversion.settings['img_size'] = tuple(size * patch for size in grid)
