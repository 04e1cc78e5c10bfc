"""Swap the self-attention of a model in place, and restore it."""

from collections.abc import Sequence

from torch import nn

from .families import loaded_families
from .grids import GivenGrid, SquareGrid
from .hooks import remove_hooks
from .mixer import build_bare_attention
from .patch_grid import PatchGrid
from .patch_map import PatchMap
from .selection import Found, find_attention, select_attention


def swap_attention(
    model: nn.Module,
    attn_cfg: dict,
    *,
    layers: int | str | Sequence[int | str] | None = None,
    grid: str | Sequence[int] | None = None,
) -> nn.Module:
    """Replace self-attention in a model, in place; its weights and their names stay.

    Knows MMSegmentation's VisionTransformer and Segmenter head, our own models, timm's
    VisionTransformer (ViT, DeiT, AugReg, DINOv2 with registers), torchvision's, Hugging Face's ViT,
    DeiT, DINOv2, DINOv3 and DPT, wherever they are in the model: the patch grid is read off each
    batch of images, whatever its size. In other models it knows nn.MultiheadAttention, also inside
    nn.TransformerEncoderLayer. The swapped model trains, copies and pickles, and its state dict
    loads into the original. Each of its calls has its own grid: calls may run in several threads,
    under gradient checkpointing of any kind, compiled and exported.

    Args:
        model: The model.
        attn_cfg: The attention, as in our configs: ``dict(type='MiTAAttention', landmarks=(7, 7),
            topk=49)``, with any further option of :class:`mita_seg.layers.MiTAAttention` that adds
            no parameters. Type ``'MiTAAttention'`` may be left out; ``'FullAttention'`` or a
            subclass of :class:`mita_seg.layers.Attention` may stand there. Not changed.
        layers: What to swap: indices into the attention modules in the order of the model, negative
            ones from the end, or names of modules, which mean the attention at or in them. All by
            default. Layers swapped already get the new attention.
        grid: Patch grid, where the model does not tell it or to overrule it: (h, w); or (h, w,
            number of special tokens before the patches); or the name of a module of the model that
            returns the patch map [B, C, h, w], which is followed as images change. By default,
            where the model does not tell it, the tokens must be a square of patches. Our own
            models pass theirs to each layer.

    Returns:
        `model`.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: No such layers; attention with a table of relative position biases (Swin, BEiT,
            MMSegmentation's MAE); cross-attention (SegFormer's reduced keys too) and attention
            pooling; all layers asked for, but those of the encoder not known; or an option that is
            not accepted. The model is then unchanged. Calls with masks, causal ones included, with
            attention dropout in training, or for attention weights are refused when they are made.
    """
    chosen = select_attention(model, layers)
    attentions = [build_bare_attention(attn_cfg, *one.adapter.heads(one.module)) for one in chosen]
    given = _resolve_grid(model, grid)
    for one, attention in zip(chosen, attentions, strict=True):
        locator = None if one.adapter.told_grid else _find_grid(one, given)
        one.adapter.swap(one.module, attention, locator)
        one.adapter.guard(one.ancestors)
    return model


def restore_attention(model: nn.Module) -> nn.Module:
    """Undo :func:`swap_attention` in a model: the same classes, hooks and output as before.

    Weights trained meanwhile stay. A model without swapped attention is left as it is.

    Args:
        model: The model, or a part of it.

    Returns:
        `model`.
    """
    for one in find_attention(model):
        one.adapter.restore(one.module)
    remove_hooks(model)
    return model


def _resolve_grid(
    model: nn.Module, grid: str | Sequence[int] | None
) -> GivenGrid | PatchMap | None:
    """The argument `grid`, checked."""
    if grid is None:
        return None
    if not isinstance(grid, str):
        return GivenGrid(grid)
    modules = dict(model.named_modules())
    if grid not in modules:
        raise ValueError(f'grid must be ints or name a module of the model, got {grid!r}')
    return PatchMap(grid).attach(modules[grid], host=modules[grid.rpartition('.')[0]])


def _find_grid(
    one: Found, given: GivenGrid | PatchMap | None
) -> GivenGrid | PatchGrid | SquareGrid:
    """What knows the grid of an attention: as given, or the nearest model around it."""
    if isinstance(given, PatchMap):
        return PatchGrid(given, before=None)
    if given is not None:
        return given
    for host in reversed(one.ancestors):
        for family in loaded_families():
            if hasattr(family, 'find_grid') and (grid := family.find_grid(host)):
                return grid
    return SquareGrid()
