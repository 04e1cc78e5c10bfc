"""``tradeoff.png``: what a point of mIoU costs in time and in memory."""

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from mita_seg.utils.files import save_figure

from .names import short_names
from .results import group_by_config, summarise
from .styles import make_styles

_COSTS = (
    ('Training iteration (ms)', 'iter_ms'),
    ('Peak memory (MiB)', 'peak_mem_mb'),
)
_WIDEST_LINEAR_RANGE = 10
_LEGEND_COLUMNS = 4
_FEWEST_CONFIGS = 3
_ROOM = 1.08  # beyond the farthest marker


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
