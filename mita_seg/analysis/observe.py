"""Observing every MiTA attention of a model while it runs."""

import contextlib
import statistics
from collections.abc import Callable, Collection
from functools import partial

from torch import nn

from mita_seg.layers import MiTAAttention


def mita_layers(model: nn.Module) -> dict[str, MiTAAttention]:
    """The MiTA attentions of a model by name.

    Raises:
        ValueError: There is none.
    """
    layers = {
        name: module for name, module in model.named_modules() if isinstance(module, MiTAAttention)
    }
    if not layers:
        raise ValueError('the model has no MiTAAttention')
    return layers


@contextlib.contextmanager
def observe(model: nn.Module, observed: Callable, names: Collection[str] | None = None):
    """Run layers' attention through `observed`(layer, attend, passes, q, k, v, grid, start).

    Args:
        model: Any model with MiTA attentions.
        observed: Returns what `attend`(q, k, v, grid, start) does, and may append to `passes`.
        names: Names of the layers; all by default.

    Yields:
        The lists `passes` of the layers by name.

    Raises:
        ValueError: The model has no MiTA attention, or none of such a name.
    """
    layers = mita_layers(model)
    if names is not None:
        if unknown := [name for name in names if name not in layers]:
            raise ValueError(
                f'layers must be among {", ".join(layers)}, got {", ".join(map(repr, unknown))}'
            )
        layers = {name: layer for name, layer in layers.items() if name in names}
    collected = {name: [] for name in layers}
    for name, layer in layers.items():
        layer.attend = partial(observed, layer, layer.attend, collected[name])
    try:
        yield collected
    finally:
        for layer in layers.values():
            del layer.attend  # the class's own comes back


def average(collected: dict[str, list[dict]]) -> dict[str, dict[str, float]]:
    """Mean figures of each layer over all passes."""
    return {
        layer: {name: statistics.fmean(each[name] for each in passes) for name in passes[0]}
        for layer, passes in collected.items()
    }
