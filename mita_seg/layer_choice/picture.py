"""What each layer costs, and what more and more of them do."""

from matplotlib.figure import Figure

from mita_seg.utils.files import save_figure
from mita_seg.visualization.curves import lay_out

from .costs import join

_BLUE, _ORANGE, _GREY = '#0072B2', '#D55E00', '0.45'


def draw_choice(quality, found, chosen, path):
    """Draw ``choose_layers.png``.

    Args:
        quality (dict[str, dict]): From :func:`.costs.measure_quality`.
        found (list[dict]): From :func:`.choice.steps`.
        chosen (dict | None): The chosen one of them.
        path (Path): The file.

    Returns:
        Path: The file.
    """
    layers = found[-1]['layers']
    figure = Figure(figsize=(max(9.6, 0.5 * len(layers) + 6), 4.2), layout='constrained')
    alone, together = figure.subplots(1, 2)
    full = quality[join([])]['loss']
    rises = [quality[join([layer])]['loss'] - full for layer in layers]
    swapped = chosen['layers'] if chosen else []
    colours = [_ORANGE if layer in swapped else _BLUE for layer in layers]
    alone.bar(range(len(layers)), rises, color=colours)
    alone.set_xticks(range(len(layers)), layers)
    alone.set_xlabel('the layer that has MiTA attention', fontsize=9)
    alone.set_ylabel('rise of the loss', fontsize=9)
    alone.set_title('One layer alone' + (' (orange: chosen)' if chosen else ''), fontsize=10)
    lay_out(alone)

    times = [step['ms'] for step in found]
    together.plot(times, [step['loss'] for step in found], marker='o', color=_BLUE)
    for step in found:
        together.annotate(
            str(len(step['layers'])),
            (step['ms'], step['loss']),
            textcoords='offset points',
            xytext=(4, 4),
            fontsize=8,
            color=_GREY,
        )
    if chosen:
        together.plot(chosen['ms'], chosen['loss'], 'o', color=_ORANGE, markersize=9)
    together.set_xlabel("ms of the encoder's attention", fontsize=9)
    together.set_ylabel('loss', fontsize=9)
    together.set_title('So many layers at once, the cheapest first', fontsize=10)
    lay_out(together)
    return save_figure(figure, path)
