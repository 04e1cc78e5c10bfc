"""``operator.png``: what a token costs as sequences grow."""

import math
from itertools import cycle

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mita_seg.utils.attention_colours import FULL_COLOUR, MITA_COLOUR
from mita_seg.utils.files import save_figure

from .backends import MITA
from .timing import EAGER, GRAPH

# Backends of the same attention differ in marker and dashes.
_STYLES = {
    'triton': (MITA_COLOUR, 'o', '-'),
    'tiled': (MITA_COLOUR, 's', '-'),
    'masked': (MITA_COLOUR, 'D', '-'),
    'reference': (MITA_COLOUR, 'v', '-'),
    'sdpa': (FULL_COLOUR, '^', '--'),
    'cudnn': (FULL_COLOUR, 'D', '--'),
    'flash': (FULL_COLOUR, 's', '-.'),
    'efficient': (FULL_COLOUR, 'P', (0, (1, 1))),
    'math': (FULL_COLOUR, 'X', (0, (5, 5))),
}
# Of the markers of the first, second, ... pair of m and k.
_FILLS = ('full', 'none', 'left', 'top', 'right', 'bottom')


def draw_operator(folder, results):
    """Draw times and memory a token and head against N, on logarithmic axes.

    Full attention rises with N there; an attention of linear cost is level, and so is the bandwidth
    bound. Cases that differ in m and k are drawn apart; of several with the same N, the one with
    the most heads is drawn.

    Args:
        folder (Path): Where ``operator.png`` is written.
        results (dict): With ``environment`` and rows under ``operator``.

    Returns:
        Path: The picture.
    """
    rows, environment = results['operator'], results['environment']
    mode = GRAPH if any(row['graph_forward_us'] for row in rows) else EAGER
    panels = [
        ('Forward', f'{mode}_forward_us', 1e3, 'ns'),
        ('Forward and backward', f'{mode}_forward_backward_us', 1e3, 'ns'),
        ('Peak memory of forward and backward', 'peak_extra_bytes', 1, 'bytes'),
    ]
    panels = [panel for panel in panels if any(row[panel[1]] for row in rows)]
    figure = Figure(figsize=(4.4 * len(panels), 4.6), layout='constrained')
    for axis, (title, field, factor, unit) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        _draw_lines(axis, rows, field, factor)
        if field.endswith('_forward_us'):
            _draw_bound(axis, rows, factor)
        axis.set_title(title, fontsize=11)
        axis.set_ylabel(f'{unit} a token and head')
        _lay_out(axis, sorted({row['tokens'] for row in rows}))
    lines = {line.get_label(): line for axis in figure.axes for line in axis.get_lines()}
    figure.legend(
        lines.values(), lines.keys(), loc='outside lower center', ncols=4, fontsize=9, frameon=False
    )
    figure.suptitle(
        f'{environment["device"]}, torch {environment["torch"]}, {rows[0]["dtype"]}, d = 64, '
        f'{"CUDA graphs" if mode == GRAPH else "eager calls"}',
        fontsize=11,
    )
    return save_figure(figure, folder / 'operator.png')


def _draw_lines(axis, rows, field, factor):
    lines = {}
    for row in sorted(rows, key=lambda row: row['heads']):
        if row[field]:
            mita = row['attention'] == MITA  # full attention does not depend on m and k
            name = (row['backend'], (row['landmarks'], row['topk']) if mita else None)
            points = lines.setdefault(name, {})
            points[row['tokens']] = factor * row[field] / (row['tokens'] * row['heads'])
    # The experts of the longest line first, with filled markers.
    groups = sorted({name[1]: len(lines[name]) for name in lines if name[1]}.items(), key=_length)
    fills = {experts: fill for (experts, _), fill in zip(groups, cycle(_FILLS), strict=False)}
    for (backend, experts), points in lines.items():
        colour, marker, dashes = _STYLES[backend]
        if experts:
            label = f'MiTA {backend}, m={experts[0]}, k={experts[1]}'
        else:
            label = f'full attention, {backend}'
        axis.plot(
            *zip(*sorted(points.items()), strict=True),
            color=colour,
            marker=marker,
            linestyle=dashes,
            fillstyle=fills.get(experts, 'full'),
            label=label,
        )


def _length(group):
    return -group[1]


def _draw_bound(axis, rows, factor):
    levels = {row['tokens']: row['floor_us'] / (row['tokens'] * row['heads']) for row in rows}
    tokens = sorted(levels)
    axis.plot(
        tokens,
        [factor * levels[count] for count in tokens],
        color='black',
        linestyle=':',
        label='bandwidth bound: q, k, v read, o written',
    )


def _lay_out(axis, tokens):
    axis.set_xscale('log', base=2)
    axis.set_yscale('log')
    axis.set_xlabel('tokens N')
    axis.xaxis.set_major_locator(FixedLocator(tokens))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f'{count:,.0f}'))
    low, high = (math.log10(value) for value in axis.get_ylim())
    axis.set_ylim(10 ** math.floor(low), 10 ** math.ceil(high))
    axis.grid(alpha=0.3)
    axis.spines[['top', 'right']].set_visible(False)
