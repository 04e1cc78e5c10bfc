"""Label maps in colours."""

import colorsys

import numpy as np

UNLABELLED = 255
_MAX_LEGEND = 40


def colour_labels(labels, palette):
    """Colour a label map.

    Args:
        labels (ndarray): `[h, w]`, indices of classes; those beyond the palette become black.
        palette (ndarray): `[K, 3]`, uint8, RGB.

    Returns:
        ndarray: `[h, w, 3]`, uint8, RGB.
    """
    table = np.zeros((max(256, len(palette) + 1), 3), np.uint8)
    table[: len(palette)] = palette
    return table[np.minimum(labels, len(table) - 1)]


def class_legend(present, classes, palette):
    """Handles of a matplotlib legend of classes.

    Args:
        present (Iterable[int]): Indices that occur; 255 is named "(not labelled)" if it is beyond
            the classes.
        classes (Sequence[str]): Names of all classes.
        palette (ndarray): `[K, 3]`, uint8, RGB.

    Returns:
        list[Patch]: One a class that occurs, at most 40, then one for the rest.
    """
    from matplotlib.patches import Patch

    named = sorted(index for index in present if index < len(classes))
    handles = [
        Patch(facecolor=palette[index] / 255, edgecolor='0.4', label=str(classes[index]))
        for index in named[:_MAX_LEGEND]
    ]
    if len(named) > _MAX_LEGEND:
        handles.append(Patch(facecolor='none', label=f'... {len(named) - _MAX_LEGEND} more'))
    if UNLABELLED in present and len(classes) <= UNLABELLED:
        handles.append(Patch(facecolor='black', edgecolor='0.4', label='(not labelled)'))
    return handles


def distinct_colours(count):
    """Colours for classes that have none.

    Args:
        count (int): How many.

    Returns:
        ndarray: `[count, 3]`, uint8, RGB; hues as far apart as the golden ratio keeps them, in
        three brightnesses.
    """
    colours = [
        colorsys.hsv_to_rgb((0.58 + 0.618034 * index) % 1, 0.75, (0.95, 0.7, 0.5)[index % 3])
        for index in range(count)
    ]
    return (np.array(colours).reshape(count, 3) * 255).round().astype(np.uint8)
