"""Many small pictures of one size in rows and columns, as one array and as a labelled figure."""

import numpy as np
from matplotlib.figure import Figure

from mita_seg.utils.files import save_figure

_DPI = 130  # of save_figure
_WHITE = 255


def make_mosaic(panels, gap=6):
    """Put panels side by side on white.

    Args:
        panels (Sequence[Sequence[ndarray | None]]): Rows of pictures, uint8 `[H, W, 3]`; None
            leaves a place empty. Of several sizes, each place is as large as the largest.
        gap (int): Pixels between them.

    Returns:
        tuple[ndarray, list[int], list[int]]: The picture; where rows begin, and where columns do,
        in pixels.
    """
    sizes = [panel.shape[:2] for row in panels for panel in row if panel is not None]
    height, width = (max(side) for side in zip(*sizes, strict=True))
    tops = [row * (height + gap) for row in range(len(panels))]
    lefts = [column * (width + gap) for column in range(max(map(len, panels)))]
    mosaic = np.full((tops[-1] + height, lefts[-1] + width, 3), _WHITE, np.uint8)
    for top, row in zip(tops, panels, strict=True):
        for left, panel in zip(lefts, row, strict=False):
            if panel is not None:
                mosaic[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
    return mosaic, tops, lefts


def patch_pixels(grid, target=190):
    """Pixels a side of a patch so that a map (h, w) is about `target` pixels long, 2 to 24."""
    return min(24, max(2, target // max(grid)))


class MosaicFigure:
    """A figure around a mosaic, in its own pixels.

    Args:
        panels (Sequence[Sequence[ndarray | None]]): As for :func:`make_mosaic`.
        rows (Sequence[str]): A label for each row.
        columns (Sequence[str]): A label for each column; several lines are possible.
        title (str): Above it all.
        gap (int): Pixels between the panels.

    Attributes:
        figure (Figure), axes (Axes): Matplotlib's.
        tops, lefts (list[int]): Where the rows and columns of panels begin, pixels.
        shape (tuple[int, int]): Height and width of the mosaic, pixels.
        size (tuple[int, int]): Height and width of the largest panel, pixels.
    """

    def __init__(self, panels, rows, columns, title, gap=6):
        mosaic, self.tops, self.lefts = make_mosaic(panels, gap)
        self.shape = height, width = mosaic.shape[:2]
        self.size = (height - self.tops[-1], width - self.lefts[-1])
        # Room for labels, a colour bar and a title that may be wider than the mosaic.
        beside = 2.4 if any(rows) else 0.5
        inches = (max(width / _DPI + beside, 0.075 * len(title) + 0.4), height / _DPI + 0.9)
        self.figure = Figure(figsize=inches, layout='constrained')
        self.axes = self.figure.subplots()
        self.axes.imshow(mosaic, interpolation='nearest')
        self.axes.spines[:].set_visible(False)
        self.axes.tick_params(length=0, labelsize=9)
        self.axes.xaxis.tick_top()
        middle = [top + self.size[0] / 2 for top in self.tops]
        centre = [left + self.size[1] / 2 for left in self.lefts]
        self.axes.set_yticks(middle if any(rows) else [], rows if any(rows) else [])
        self.axes.set_xticks(centre if any(columns) else [], columns if any(columns) else [])
        self.figure.suptitle(title, fontsize=11)

    def save(self, path):
        """Write it as PNG; return the path."""
        return save_figure(self.figure, path)
