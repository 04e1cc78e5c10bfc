"""How the queries, keys and experts of one attention are used, in a few figures."""

import torch
from torch import nn

from .arrays import expert_counts, loads, shared_masses
from .observe import observe
from .record import Routing, make_routing

_OF_ROUTED_EXPERTS = (
    'empty_experts',
    'busiest_expert',
    'unchosen_keys',
    'unreached_keys',
    'overlap',
)


@torch.no_grad()
def routing_figures(routing: Routing) -> dict[str, float]:
    """Figures of one attention, from 0 to 1, averaged over images and heads.

    Args:
        routing: One call of the attention; its grids do not matter.

    Returns:
        ``empty_experts``: experts that no query goes to. ``busiest_expert``: share of the routes
        that go to the most popular expert (at least 1 / m). ``unchosen_keys``: keys in no expert.
        ``unreached_keys``: keys in no expert that a query goes to. ``overlap``: places of the
        experts whose key is also in another expert. ``shared_mass``: softmax mass of the landmarks,
        or of the remainder, mean over queries. All but the last are NaN without routed experts.
    """
    if not routing.options.topk:
        return {**dict.fromkeys(_OF_ROUTED_EXPERTS, float('nan')), 'shared_mass': 1.0}
    load, counts = loads(routing), expert_counts(routing)
    reached = expert_counts(routing, among=load > 0)
    several = counts.where(counts > 1, 0).sum(-1)
    figures = {
        'empty_experts': (load == 0).float().mean(),
        'busiest_expert': (load.amax(-1) / routing.routes[0, 0].numel()).mean(),
        'unchosen_keys': (counts == 0).float().mean(),
        'unreached_keys': (reached == 0).float().mean(),
        'overlap': (several / counts.sum(-1)).mean(),
        'shared_mass': shared_masses(routing).mean(),
    }
    return {name: figure.item() for name, figure in figures.items()}


def observe_routing(model: nn.Module):
    """Collect :func:`routing_figures` of every layer at every forward pass.

    The model's results do not change.

    Args:
        model: Any model with MiTA attentions.

    Returns:
        A context manager; of :func:`observe`, with a dict of figures for each pass.

    Raises:
        ValueError: The model has no MiTA attention.
    """
    return observe(model, _observed)


def _observed(layer, attend, passes, q, k, v, grid, start):
    passes.append(routing_figures(make_routing(layer, q, k, grid, start)))
    return attend(q, k, v, grid, start)
