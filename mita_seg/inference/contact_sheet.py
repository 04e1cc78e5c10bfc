"""One page that shows what was predicted."""

import math

import cv2
import numpy as np
from matplotlib.figure import Figure

from mita_seg.utils.files import save_figure
from mita_seg.utils.palette import class_legend

_MOST = 24
_SIDE = 320  # pixels, the longer side of a picture on the sheet


class ContactSheet:
    """Small pictures of predictions, evenly spread over however many there will be.

    Args:
        classes (Sequence[str]): Names of the classes.
        palette (ndarray): `[K, 3]`, uint8, RGB.
    """

    def __init__(self, classes, palette):
        self.classes, self.palette = classes, palette
        self._cells, self._every, self._seen = [], 1, 0

    def add(self, name, image, blend, labels):
        """Take an image and its overlay in.

        Args:
            name (str): Its title.
            image (ndarray): `[h, w, 3]`, uint8, RGB.
            blend (ndarray): The same with the colours of its classes.
            labels (ndarray): `[h, w]`, indices of classes.
        """
        if self._seen % self._every == 0:
            present = np.flatnonzero(np.bincount(labels.ravel()))
            self._cells.append((name, _shrink(image), _shrink(blend), present))
            if len(self._cells) == 2 * _MOST:
                self._cells, self._every = self._cells[::2], 2 * self._every
        self._seen += 1

    def save(self, path):
        """Draw the sheet as PNG.

        Args:
            path (Path): The file; left alone if nothing was added.
        """
        if not self._cells:
            return
        places = np.linspace(0, len(self._cells) - 1, min(_MOST, len(self._cells)))
        cells = [self._cells[int(place)] for place in places.round()]
        columns = 1 if len(cells) == 1 else 2 if len(cells) <= 8 else 3
        rows = math.ceil(len(cells) / columns)
        ratio = np.median([image.shape[0] / image.shape[1] for _, image, _, _ in cells])
        height = 2.4 * min(max(ratio, 0.4), 1.6) + 0.3
        present = {index for _, _, _, held in cells for index in held.tolist()}
        handles = class_legend(present, self.classes, self.palette)
        beside = min(3 * columns, 8)
        legend_height = 0.2 * math.ceil(len(handles) / beside) + 0.4
        figure = Figure(figsize=(5 * columns, rows * height + legend_height), layout='constrained')
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes:
            axis.set_axis_off()
        for axis, (name, image, blend, _) in zip(axes, cells, strict=False):
            gap = np.full((image.shape[0], 4, 3), 255, np.uint8)
            axis.imshow(np.hstack([image, gap, blend]), interpolation='antialiased')
            axis.set_title(_shorten(name), fontsize=9)
        if self._seen > len(cells):
            figure.suptitle(f'{len(cells)} of {self._seen:,} predictions', fontsize=10)
        figure.legend(
            handles=handles,
            loc='outside lower center',
            ncols=beside,
            fontsize=9,
            frameon=False,
        )
        save_figure(figure, path)


def _shrink(picture):
    scale = _SIDE / max(picture.shape[:2])
    if scale >= 1:
        return picture.copy()
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _shorten(name):
    return name if len(name) <= 44 else f'{name[:16]}...{name[-25:]}'
