"""Watching every MiTA attention of a model while it runs."""

import contextlib
import statistics
from collections.abc import Callable
from functools import partial

from torch import nn

from mita_seg.layers import MiTAAttention

from .routing import routing_figures


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
def observe(model: nn.Module, observed: Callable):
    """Run every layer's attention through `observed`(layer, attend, passes, q, k, v, grid, start).

    Args:
        model: Any model with MiTA attentions.
        observed: Returns what `attend`(q, k, v, grid, start) does, and may append to `passes`.

    Yields:
        The lists `passes` of the layers by name.

    Raises:
        ValueError: The model has no MiTA attention.
    """
    layers = mita_layers(model)
    collected = {name: [] for name in layers}
    for name, layer in layers.items():
        layer.attend = partial(observed, layer, layer.attend, collected[name])
    try:
        yield collected
    finally:
        for layer in layers.values():
            del layer.attend  # the class's own comes back


def observe_routing(model: nn.Module):
    """Collect :func:`routing_figures` of every layer at every forward pass.

    The model computes what it computes otherwise.

    Args:
        model: Any model with MiTA attentions.

    Returns:
        A context manager; of :func:`observe`, with a dict of figures for each pass.

    Raises:
        ValueError: The model has no MiTA attention.
    """
    return observe(model, _observed)


def average(collected: dict[str, list[dict]]) -> dict[str, dict[str, float]]:
    """Mean figures of each layer over all passes."""
    return {
        layer: {name: statistics.fmean(each[name] for each in passes) for name in passes[0]}
        for layer, passes in collected.items()
    }


def _observed(layer, attend, passes, q, k, v, grid, start):
    figures = routing_figures(
        q,
        k,
        layer.pool(q, grid, start),
        topk=layer.topk,
        num_routed=layer.num_routed,
        landmark_scale=layer.landmark_scale,
        shared=layer.shared,
    )
    passes.append(figures)
    return attend(q, k, v, grid, start)
