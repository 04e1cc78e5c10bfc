"""Table and plot of costs against the size of the image."""

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from mita_seg.utils.attention_colours import FULL_COLOUR, MITA_COLOUR
from mita_seg.utils.files import save_figure
from mita_seg.utils.tables import format_table

from .measure import FULL, MITA, SIDES

_STYLES = {FULL: (FULL_COLOUR, 'o', '--'), MITA: (MITA_COLOUR, 's', '-')}
_NAMES = {FULL: 'full attention', MITA: 'MiTA attention'}


def make_table(rows):
    """Lay out the figures.

    Args:
        rows (Sequence[dict]): ``size`` (height, width) and, for each side, what
            :func:`measure.measure` returns.

    Returns:
        str: Markdown.
    """
    head = ['image', 'GFLOPs: full, MiTA', 'ratio', 'activations (MiB): full, MiTA', 'ratio']
    table = [[*head, 'parameters (M): full, MiTA']]
    for row in rows:
        full, mita = (row[side] for side in SIDES)
        table.append(
            [
                '{}x{}'.format(*row['size']),
                _pair(full['flops'] / 1e9, mita['flops'] / 1e9),
                f'{mita["flops"] / full["flops"]:.2f}x',
                _pair(full['activation_bytes'] / 2**20, mita['activation_bytes'] / 2**20),
                f'{mita["activation_bytes"] / full["activation_bytes"]:.2f}x',
                f'{full["params"] / 1e6:.2f}, {mita["params"] / 1e6:.2f}',
            ]
        )
    return format_table(table)


def _pair(*values):
    return ', '.join(f'{value:,.0f}' if value >= 100 else f'{value:.3g}' for value in values)


def draw_complexity(rows, title, path):
    """Draw FLOPs and activation memory on logarithmic axes.

    Args:
        rows (Sequence[dict]): As for :func:`make_table`.
        title (str): Above the panels.
        path (Path): The PNG file.

    Returns:
        Path: The file.
    """
    rows = sorted(rows, key=_pixels)
    figure = Figure(figsize=(9.2, 4.4), layout='constrained')
    panels = (
        ('FLOPs (G; one multiply-add = 1)', 'flops', 1e9),
        ('Kept for the backward pass (MiB)', 'activation_bytes', 2**20),
    )
    for axis, (name, field, unit) in zip(figure.subplots(1, 2), panels, strict=True):
        for side in SIDES:
            colour, marker, line = _STYLES[side]
            axis.plot(
                [_pixels(row) for row in rows],
                [row[side][field] / unit for row in rows],
                color=colour,
                marker=marker,
                linestyle=line,
                label=f'{_NAMES[side]}, {rows[0][side]["params"] / 1e6:.2f} M parameters',
            )
        axis.set_title(f'{name}, one image', fontsize=10)
        axis.set_xscale('log', base=2)
        axis.set_yscale('log')
        axis.xaxis.set_major_locator(FixedLocator([_pixels(row) for row in rows]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xticklabels(['{}x{}'.format(*row['size']) for row in rows], fontsize=8)
        axis.set_xlabel('image, pixels', fontsize=9)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.6g}'))
        axis.tick_params(axis='y', labelsize=8)
        axis.grid(alpha=0.3)
        axis.spines[['top', 'right']].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=2, fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=10)
    return save_figure(figure, path)


def _pixels(row):
    return row['size'][0] * row['size'][1]
