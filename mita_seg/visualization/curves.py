"""From layer to layer: tokens in no expert, use of tokens, shared expert, recall."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mita_seg.analysis import recall, shared_share, token_use
from mita_seg.utils.files import save_figure

_BLUE, _ORANGE, _GREY = '#0072B2', '#D55E00', '0.45'


def draw_layers(routings, heads, path):
    """Draw ``layers.png``.

    Args:
        routings (dict[str, Routing]): By the name of the layer, in the order of the model.
        heads (Sequence[int]): Heads to count.
        path (Path): The file.

    Returns:
        Path: The file.
    """
    heads = list(heads)
    names = list(routings)
    use = [token_use(routing)[0, heads] for routing in routings.values()]  # [H, N] each
    figure = Figure(figsize=(max(9.6, 0.62 * len(names) + 4), 7.6), layout='constrained')
    pruned, sorted_use, shared, recalled = figure.subplots(2, 2).ravel()

    draw_heads(pruned, names, [(each == 0).mean(1) for each in use], _ORANGE)
    pruned.set_title('Tokens that are a key of no expert', fontsize=10)
    _draw_sorted(sorted_use, names, use)

    shares = [shared_share(routing)[0, heads].mean(1) for routing in routings.values()]
    draw_heads(shared, names, shares, _BLUE)
    shared.set_title("The shared expert's share of the softmax", fontsize=10)

    recalls = [recall(routing)[0, heads].mean(1) for routing in routings.values()]
    draw_heads(recalled, names, recalls, _BLUE)
    chance = [_key_share(routing) for routing in routings.values()]
    recalled.plot(chance, color=_GREY, linestyle='--', label='keys chosen blindly')
    recalled.legend(fontsize=8, frameon=False)
    recalled.set_title("Full attention's mass on the chosen keys (recall)", fontsize=10)
    return save_figure(figure, path)


def _key_share(routing):
    tokens = routing.query.shape[2]
    return min(1, routing.experts.shape[-1] * routing.options.num_routed / tokens)


def draw_heads(axis, names, values, colour):
    """The mean of the heads as a line, and the heads as dots."""
    axis.plot([each.mean() for each in values], color=colour, marker='o', label='mean of the heads')
    for layer, each in enumerate(values):
        axis.plot([layer] * len(each), each, '.', color=colour, alpha=0.35, markersize=7)
    axis.plot([], [], '.', color=colour, alpha=0.35, markersize=7, label='a head')
    axis.set_ylim(-0.03, 1.03)
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.set_xticks(range(len(names)), names, rotation=45, ha='right', fontsize=8)
    axis.legend(fontsize=8, frameon=False)
    lay_out(axis)


def _draw_sorted(axis, names, use):
    colours = matplotlib.colormaps['viridis'](np.linspace(0, 0.9, len(names)))
    for name, each, colour in zip(names, use, colours, strict=True):
        ordered = -np.sort(-each, axis=1)
        axis.plot(
            np.linspace(0, 1, each.shape[1]),
            ordered.mean(0),
            color=colour,
            linewidth=1.6,
            label=name,
        )
    axis.set_title('Experts that hold a token, tokens in falling order', fontsize=10)
    axis.set_xlabel('share of the tokens', fontsize=9)
    axis.set_ylabel('experts, mean of the heads', fontsize=9)
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=7, frameon=False, ncols=2 if len(names) > 7 else 1)
    lay_out(axis)


def lay_out(axis):
    """Small labels, a faint grid and two sides."""
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    axis.spines[['top', 'right']].set_visible(False)
