"""``comparison.png`` and ``results.png`` from the files of the runs."""

import textwrap

import numpy as np
from matplotlib.figure import Figure

from mita_seg.utils.files import save_figure
from mita_seg.utils.palette import class_legend, colour_labels

from .names import short_names
from .results import group_by_config, summarise
from .styles import make_styles

_BARS = (
    ('mIoU (%)', 'mIoU', 1),
    ('FLOPs of the model (G)', 'flops_model', 1e9),
    ('Training iteration (ms)', 'iter_ms', 1),
    ('Latency (ms)', 'latency_ms', 1),
)


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
