"""How often each class occurs, as a picture."""

import numpy as np
from matplotlib.figure import Figure

from mita_seg.utils.files import save_figure


def draw_frequencies(path, names, palette, pixels, images):
    """Draw a bar for each class, on a logarithmic scale.

    Args:
        path (Path): The PNG.
        names (Sequence[str]): Names of the classes.
        palette (ndarray): `[K, 3]`, uint8, RGB.
        pixels (ndarray): `[K]`, pixels of each class.
        images (ndarray): `[K]`, how many images hold it.
    """
    share = 100 * pixels / max(1, pixels.sum())
    order = np.argsort(-share, kind='stable')
    figure = Figure(figsize=(8, 1 + 0.28 * len(names)), layout='constrained')
    axis = figure.subplots()
    present = share[share > 0]
    low = 10 ** np.floor(np.log10(present.min() / 2)) if len(present) else 0.1
    axis.barh(
        range(len(names)),
        np.maximum(share[order] - low, 0),
        left=low,
        color=palette[order] / 255,
        edgecolor='0.4',
        linewidth=0.6,
    )
    for row, place in enumerate(order):
        count = '1 image' if images[place] == 1 else f'{images[place]:,} images'
        axis.annotate(
            f'{share[place]:.2g} %, {count}' if pixels[place] else 'in no image',
            (max(share[place], low), row),
            xytext=(4, 0),
            textcoords='offset points',
            va='center',
            fontsize=8,
        )
    axis.set_xscale('log')
    axis.set_xlim(low, 1000)
    axis.set_xticks([tick for tick in 10.0 ** np.arange(-6, 3) if tick >= low])
    axis.xaxis.set_major_formatter('{x:g}')
    axis.minorticks_off()
    axis.set_yticks(range(len(names)), [names[place] for place in order])
    axis.invert_yaxis()
    axis.set_xlabel('labelled pixels (%)')
    axis.tick_params(axis='y', length=0)
    axis.spines[['top', 'right']].set_visible(False)
    save_figure(figure, path)
