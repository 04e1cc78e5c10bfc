"""From layer to layer: what MiTA attention keeps of full attention, and what all experts hold."""

import numpy as np
from matplotlib.figure import Figure

from mita_seg.utils.files import save_figure

from .curves import draw_heads, lay_out
from .names import short_layer_names

_BLUE, _ORANGE, _GREEN, _GREY = '#0072B2', '#D55E00', '#009E73', '0.45'


def draw_recall(recall, path):
    """Draw ``recall.png``.

    Args:
        recall (dict[str, dict[str, list[float]]]): Figures of
            :func:`mita_seg.analysis.attention_recall` by layer, a number for each head.
        path (Path): The file.

    Returns:
        Path: The file.
    """
    names = short_layer_names(list(recall))
    figure = Figure(figsize=(max(9.6, 0.62 * len(names) + 4), 7.6), layout='constrained')
    routed, overlap, common, norm = figure.subplots(2, 2).ravel()

    def heads(name):
        return [np.asarray(figures[name]) for figures in recall.values()]

    draw_heads(routed, names, heads('routed'), _BLUE)
    blind = [each.mean() for each in heads('blind')]
    routed.plot(blind, color=_GREY, linestyle='--', label='keys chosen blindly')
    routed.legend(fontsize=8, frameon=False)
    routed.set_title("Full attention's mass on a query's routed keys", fontsize=10)

    draw_heads(overlap, names, heads('overlap'), _GREEN)
    shared = [each.mean() for each in heads('shared')]
    overlap.plot(shared, color=_BLUE, linestyle='--', label='share of the shared expert')
    overlap.legend(fontsize=8, frameon=False)
    overlap.set_title('Mass that full and MiTA attention put on the same keys', fontsize=10)

    draw_heads(common, names, heads('common'), _ORANGE)
    keys = [each.mean() for each in heads('common_keys')]
    common.plot(keys, color=_GREY, linestyle='--', label='their part of an expert')
    common.legend(fontsize=8, frameon=False)
    common.set_title("Full attention's mass on keys that nearly all experts hold", fontsize=10)

    norms = heads('common_norm')
    norm.plot([_mean(each) for each in norms], color=_ORANGE, marker='o')
    for layer, each in enumerate(norms):
        norm.plot([layer] * len(each), each, '.', color=_ORANGE, alpha=0.35, markersize=7)
    norm.axhline(1, color=_GREY, linestyle='--')
    norm.set_ylim(bottom=0)
    norm.set_xticks(range(len(names)), names, rotation=45, ha='right', fontsize=8)
    norm.set_title('Norm of these keys over the median of all', fontsize=10)
    lay_out(norm)
    return save_figure(figure, path)


def _mean(heads):
    """Of the heads that have any such keys."""
    there = heads[~np.isnan(heads)]
    return there.mean() if there.size else np.nan
