"""``comparison.png``, ``results.png`` and ``tradeoff.png`` from the files of the runs."""

import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from mita_seg.utils.attention_colours import ATTENTION_COLOURS, find_attention
from mita_seg.utils.files import save_figure
from mita_seg.utils.palette import class_legend, colour_labels

from .results import group_by_config, short_names, summarise

_BARS = (
    ('mIoU (%)', 'mIoU', 1),
    ('FLOPs of the model (G)', 'flops_model', 1e9),
    ('Training iteration (ms)', 'iter_ms', 1),
    ('Latency (ms)', 'latency_ms', 1),
)
_COSTS = (
    ('Training iteration (ms)', 'iter_ms'),
    ('Peak memory (MiB)', 'peak_mem_mb'),
)
_WIDEST_LINEAR_RANGE = 10
_LEGEND_COLUMNS = 4
_FEWEST_CONFIGS = 3
_ROOM = 1.08  # beyond the farthest marker
_MARKERS = 'o^sDvP<X'


def draw_comparison(work_dir, results):
    """Draw ``comparison.png``: a column an image; above its label, below that what models predict.

    Args:
        work_dir (Path): Folder of the comparison.
        results (Sequence[dict]): At least one result; of each config the first seed is drawn.

    Returns:
        Path: The picture.
    """
    first = [group[0] for group in group_by_config(results).values()]
    samples = []
    for result in first:
        with np.load(work_dir / result['config'] / f'seed{result["seed"]}' / 'samples.npz') as file:
            samples.append(dict(file))
    shown = samples[0]
    names = short_names([result['config'] for result in first])
    titles = ['image', 'label'] + [
        f'{textwrap.fill(name, 24)}\nmIoU {result["mIoU"]:.1f}'
        for name, result in zip(names, first, strict=True)
    ]
    rows, columns = len(titles), len(shown['names'])
    height, width = shown['image0'].shape[:2]
    figure = Figure(
        figsize=(2.4 * columns + 2, 2.4 * rows * min(height / width, 1.6) + 0.8),
        layout='constrained',
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    present = set()
    for column in range(columns):
        label = shown[f'label{column}']
        maps = [label] + [sample[f'prediction{column}'] for sample in samples]
        panels = [shown[f'image{column}']] + [
            colour_labels(each, shown['palette']) for each in maps
        ]
        present.update(*(np.unique(each).tolist() for each in maps))
        for axis, panel in zip(axes[:, column], panels, strict=True):
            axis.imshow(panel)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    for axis, title in zip(axes[:, 0], titles, strict=True):
        axis.set_ylabel(title, fontsize=10, rotation=0, ha='right', va='center')
    figure.legend(
        handles=class_legend(present, shown['classes'], shown['palette']),
        loc='outside lower center',
        ncols=min(2 * columns, 8),
        fontsize=9,
        frameon=False,
    )
    return save_figure(figure, work_dir / 'comparison.png')


def draw_bars(work_dir, results):
    """Draw ``results.png``: bar charts of quality and cost, a row a config, error bars over seeds.

    Args:
        work_dir (Path): Folder of the comparison.
        results (Sequence[dict]): At least one result.

    Returns:
        Path: The picture.
    """
    groups = group_by_config(results)
    names = [textwrap.fill(name, 28) for name in short_names(list(groups))]
    rows = dict(zip(groups, range(len(names)), strict=True))
    colours = [colour for colour, _ in make_styles(list(groups))]
    charts = [(title, summarise(groups, field), divisor) for title, field, divisor in _BARS]
    charts = [chart for chart in charts if chart[1]]
    figure = Figure(figsize=(2.8 * len(charts) + 1.5, 0.4 * len(names) + 1), layout='constrained')
    axes = figure.subplots(1, len(charts), sharey=True, squeeze=False)[0]
    for axis, (title, figures, divisor) in zip(axes, charts, strict=True):
        means, spreads = np.array(list(figures.values())).T / divisor
        bars = axis.barh(
            [rows[config] for config in figures],
            means,
            xerr=np.where(spreads > 0, spreads, np.nan),
            color=[colours[rows[config]] for config in figures],
            capsize=3,
        )
        axis.bar_label(bars, fmt='%.3g', fontsize=9, padding=3)
        axis.margins(x=0.25)
        axis.set_title(title, fontsize=10)
        axis.tick_params(axis='y', length=0)
        axis.spines[['top', 'right']].set_visible(False)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    return save_figure(figure, work_dir / 'results.png')


def draw_tradeoff(work_dir, results):
    """Draw ``tradeoff.png``: mIoU against time and against memory, a marker a config.

    Axes begin at 0, so that small differences look small. Two configs make no trade-off to be seen:
    nothing is drawn of fewer than three.

    Error bars are the standard deviation of mIoU over seeds. A cost that a config lacks, such as
    the training time of a model that was only tested, leaves its marker out of that panel.

    Args:
        work_dir (Path): Folder of the comparison.
        results (Sequence[dict]): At least one result.

    Returns:
        Path | None: The picture.
    """
    groups = group_by_config(results)
    if len(groups) < _FEWEST_CONFIGS:
        return None
    qualities = summarise(groups, 'mIoU')
    names = dict(zip(groups, short_names(list(groups)), strict=True))
    styles = dict(zip(groups, make_styles(list(groups)), strict=True))
    panels = [(title, summarise(groups, field)) for title, field in _COSTS]
    panels = [(title, costs) for title, costs in panels if costs]
    rows = -(-len(groups) // _LEGEND_COLUMNS)
    figure = Figure(figsize=(max(5.2 * len(panels), 7.4), 4.2 + 0.22 * rows), layout='constrained')
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    handles = {}
    for axis, (title, costs) in zip(axes, panels, strict=True):
        for config, (cost, _) in costs.items():
            quality, spread = qualities[config]
            colour, marker = styles[config]
            if spread:
                axis.errorbar(cost, quality, yerr=spread, color=colour, capsize=3)
            (handles[config],) = axis.plot(
                cost,
                quality,
                color=colour,
                marker=marker,
                markersize=9,
                markeredgecolor='white',
                linestyle='none',
                label=names[config],
                zorder=3,
            )
        _lay_out(axis, title, [cost for cost, _ in costs.values()])
    axes[0].set_ylabel('mIoU (%)')
    axes[0].set_ylim(0, _ROOM * max(sum(quality) for quality in qualities.values()))
    figure.legend(
        handles=[handles[config] for config in groups],
        loc='outside lower center',
        ncols=min(len(groups), _LEGEND_COLUMNS),
        fontsize=9,
        frameon=False,
    )
    return save_figure(figure, work_dir / 'tradeoff.png')


def _lay_out(axis, title, costs):
    if max(costs) > _WIDEST_LINEAR_RANGE * min(costs):
        axis.set_xscale('log')
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.set_xlabel(title)
    axis.margins(0.08)
    if axis.get_xscale() == 'linear':
        axis.set_xlim(0, _ROOM * max(costs))
    axis.grid(alpha=0.3)
    axis.spines[['top', 'right']].set_visible(False)


def make_styles(names):
    """Choose a colour and a marker for each of several configs.

    The colour tells the attention; configs of the same attention differ in their markers. Names
    that tell none get the colours that are left.

    Args:
        names (Sequence[str]): Names of the configs; up to 56 differ in colour or marker.

    Returns:
        list[tuple[str, str]]: Colour and marker of matplotlib.
    """
    known = [ATTENTION_COLOURS.get(find_attention(name)) for name in names]
    left = [colour for colour in dict.fromkeys(ATTENTION_COLOURS.values()) if colour not in known]
    used, styles, unknown = {}, [], 0
    for colour in known:
        if colour is None:
            colour = left[unknown % len(left)] if left else '0.5'
            unknown += 1
        index = used[colour] = used.get(colour, -1) + 1
        styles.append((colour, _MARKERS[index % len(_MARKERS)]))
    return styles
