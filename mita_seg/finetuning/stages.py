"""What the attentions of a model compute for a while in place of their own settings."""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import nn

from mita_seg.analysis.observe import mita_layers
from mita_seg.layers.mita_attention import Stage

FULL = Stage(topk=None)  # full attention, as FullAttention computes it


def read_stages(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The stages of a model's MiTA attentions as plain data, to be kept beside its weights.

    Returns:
        ``{'topk': int | None, 'shared_offset': float}`` by the name of the layer; only of layers
        that do not compute their own settings.
    """
    layers = mita_layers(model).items()
    return {name: layer.stage._asdict() for name, layer in layers if layer.stage is not None}


def write_stages(model: nn.Module, stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Set the stages that :func:`read_stages` returned; other layers get their own settings.

    Raises:
        ValueError: The model has no MiTA attention, or none of a name in `stages`.
    """
    layers = mita_layers(model)
    if unknown := [name for name in stages if name not in layers]:
        raise ValueError(
            f'stages must be of the layers {", ".join(layers)}, got one of {", ".join(unknown)}'
        )
    for name, layer in layers.items():
        layer.set_stage(Stage(**stages[name]) if name in stages else None)


@contextlib.contextmanager
def with_full_attention(model: nn.Module, but: Collection[str] = ()) -> Iterator[None]:
    """Let the MiTA attentions of a model compute full attention within the ``with`` block.

    Args:
        model: Any model with MiTA attentions.
        but: Names of those that compute their own settings.

    Raises:
        ValueError: The model has no MiTA attention, or none of a name in `but`.
    """
    layers = mita_layers(model)
    if unknown := [name for name in but if name not in layers]:
        raise ValueError(f'but must be among {", ".join(layers)}, got {", ".join(unknown)}')
    before = {name: layer.stage for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.set_stage(None if name in but else FULL)
        yield
    finally:
        for name, layer in layers.items():
            layer.set_stage(before[name])
