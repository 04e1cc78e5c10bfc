"""Existing models with MiTA in the place of their self-attention, from configs."""

from collections.abc import Sequence

from mmseg.registry import MODELS
from torch import nn

from mita_seg.swap import swap_attention


def build_swapped(
    *,
    segmentor: str,
    attn_cfg: dict,
    layers: int | str | Sequence[int | str] | None = None,
    grid: str | Sequence[int] | None = None,
    **model,
) -> nn.Module:
    """Build the model of a config and swap its self-attention.

    For ``model.type`` of a config whose other keys stay what they were. By its full name,
    ``'mita_seg.models.build_swapped'``, MMEngine finds it without ``custom_imports``. The model is
    swapped wherever it is built: in training, testing, inference and analysis, with our tools and
    with MMSegmentation's. Parameters and their names are those of the model as it was, so that
    checkpoints fit both ways.

    Args:
        segmentor: The type that the model has without this, such as ``'EncoderDecoder'``.
        attn_cfg: The attention, see :func:`mita_seg.swap_attention`.
        layers: Which layers; all by default.
        grid: Patch grid, where the model does not tell it.
        **model: The arguments of `segmentor`.

    Raises:
        KeyError: `segmentor` is not registered.
        TypeError, ValueError: As :func:`mita_seg.swap_attention` does.
    """
    built = MODELS.build({'type': segmentor, **model})
    return swap_attention(built, dict(attn_cfg), layers=layers, grid=grid)
