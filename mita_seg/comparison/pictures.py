"""``comparison.png`` and ``results.png`` from the files of the runs."""

import textwrap

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mita_seg.files import save_figure

from .names import short_names
from .report import group_by_config, mean_and_spread

_UNLABELLED = 255
_MAX_LEGEND = 40
_BARS = (
    ('mIoU (%)', 'mIoU', 1),
    ('FLOPs of the model (G)', 'flops_model', 1e9),
    ('Training iteration (ms)', 'iter_ms', 1),
    ('Latency (ms)', 'latency_ms', 1),
)


def draw_comparison(work_dir, results):
    """Draw ``comparison.png``: image, label and the prediction of each model, a row an image.

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
    rows, columns = len(shown['names']), len(titles)
    height, width = shown['image0'].shape[:2]
    figure = Figure(
        figsize=(2.4 * columns, 2.4 * rows * min(height / width, 1.6) + 1.2), layout='constrained'
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    present = set()
    for row in range(rows):
        label = shown[f'label{row}']
        maps = [label] + [sample[f'prediction{row}'] for sample in samples]
        panels = [shown[f'image{row}']] + [_colour(each, shown['palette']) for each in maps]
        present.update(*(np.unique(each).tolist() for each in maps))
        for axis, panel in zip(axes[row], panels, strict=True):
            axis.imshow(panel)
            axis.set_axis_off()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    figure.legend(
        handles=_legend(present, shown['classes'], shown['palette']),
        loc='outside lower center',
        ncols=min(2 * columns, 8),
        fontsize=9,
        frameon=False,
    )
    return save_figure(figure, work_dir / 'comparison.png')


def draw_bars(work_dir, results):
    """Draw ``results.png``: a bar chart of quality and cost, error bars over seeds.

    Args:
        work_dir (Path): Folder of the comparison.
        results (Sequence[dict]): At least one result.

    Returns:
        Path: The picture.
    """
    groups = group_by_config(results)
    names = [textwrap.fill(name, 18) for name in short_names(list(groups))]
    charts = [chart for chart in _BARS if all(result[chart[1]] is not None for result in results)]
    width = max(2.8, 0.8 * len(names) + 1)
    figure = Figure(figsize=(len(charts) * width, 3.4), layout='constrained')
    axes = figure.subplots(1, len(charts), squeeze=False)
    colours = matplotlib.colormaps['tab10'](range(len(names)))
    for axis, (title, field, divisor) in zip(axes[0], charts, strict=True):
        figures = [
            mean_and_spread([r[field] / divisor for r in group]) for group in groups.values()
        ]
        means, spreads = zip(*figures, strict=True)
        bars = axis.bar(names, means, yerr=spreads if any(spreads) else None, capsize=4)
        for bar, colour in zip(bars, colours, strict=True):
            bar.set_color(colour)
        axis.bar_label(bars, fmt='%.3g', fontsize=9)
        axis.margins(y=0.15)
        axis.set_title(title, fontsize=10)
        axis.tick_params(axis='x', labelsize=9)
        axis.spines[['top', 'right']].set_visible(False)
    return save_figure(figure, work_dir / 'results.png')


def _colour(labels, palette):
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[labels]


def _legend(present, classes, palette):
    named = sorted(index for index in present if index < len(classes))
    handles = [
        Patch(facecolor=palette[index] / 255, edgecolor='0.4', label=str(classes[index]))
        for index in named[:_MAX_LEGEND]
    ]
    if len(named) > _MAX_LEGEND:
        handles.append(Patch(facecolor='none', label=f'... {len(named) - _MAX_LEGEND} more'))
    if _UNLABELLED in present:
        handles.append(Patch(facecolor='black', edgecolor='0.4', label='(not labelled)'))
    return handles
