"""Where the class queries of a decoder look."""

import numpy as np

from mita_seg.analysis import attention_rows

from .colours import enlarge, fit_image, tint, value_colours
from .maps import patches_of
from .mosaic import MosaicFigure, patch_pixels

MOST_CLASSES = 8


def class_tokens(routing, classes):
    """The class queries among the tokens of a layer.

    Args:
        routing (Routing): One call of an attention.
        classes (Sequence[str]): Names of the classes.

    Returns:
        list[int]: Index of the token of each class; empty for a layer that has none.
    """
    after = [token for token in routing.special_tokens if token >= routing.start]
    return after if after and len(after) in (len(classes), 1) else []


def largest_classes(labels, most):
    """Classes of a label map, those of most patches first."""
    present, sizes = np.unique(labels, return_counts=True)
    return present[np.argsort(-sizes, kind='stable')][:most].tolist()


def draw_class_queries(image, labels, routings, heads, classes, path):
    """Draw ``class_queries.png``: a row a layer, a column for each class that is predicted most.

    Args:
        image (ndarray): uint8 `[H, W, 3]`.
        labels (ndarray): The predicted class of each patch, `[h, w]`.
        routings (dict[str, Routing]): By the name of the layer.
        heads (Sequence[int]): Heads whose mean is drawn.
        classes (Sequence[str]): Names of the classes.
        path (Path): The file.

    Returns:
        Path | None: The file; None where no layer has class queries.
    """
    layers = {name: each for name, each in routings.items() if class_tokens(each, classes)}
    if not layers:
        return None
    shown = largest_classes(labels, MOST_CLASSES)
    panels, titles = [], []
    for routing in layers.values():
        tokens = class_tokens(routing, classes)
        shown = shown if len(tokens) > 1 else [0]
        titles = [classes[index] if len(tokens) > 1 else 'foreground' for index in shown]
        rows = attention_rows(routing, [tokens[index] for index in shown])[0, list(heads)].mean(0)
        patch = patch_pixels(routing.grid, 150)
        under = fit_image(image, routing.grid, patch)
        maps = [_heat(under, row, patch) for row in patches_of(rows, routing)]
        panels.append([None if panels else under, *maps])
    title = 'Where the query of each class looks'
    if len(heads) > 1:
        title += f', mean of {len(heads)} heads'
    title += '; from black, 0, to the brightest, the most of each map'
    return MosaicFigure(panels, list(layers), ['image', *titles], title).save(path)


def _heat(under, weights, patch):
    values = weights / max(weights.max(), 1e-12)
    strength = 0.25 + 0.6 * enlarge(values[..., None], patch)
    return tint(under, enlarge(value_colours(values, 'inferno'), patch), strength)
