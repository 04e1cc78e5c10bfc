"""Maps of every layer and head: experts, shares of the softmax, use of the tokens."""

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from mita_seg.analysis import expert_map, recall, shared_share, token_use

from .colours import enlarge, expert_colours, fit_image, tint, value_colours
from .mosaic import MosaicFigure, make_mosaic, patch_pixels


def expert_panels(image, routings, heads=None, target=190):
    """The expert of each patch in colours, over the image.

    Args:
        image (ndarray): uint8 `[H, W, 3]`, the first image of the batch.
        routings (Sequence[Routing]): One for each layer.
        heads (Sequence[int], optional): All of them by default.
        target (int): Length of a panel, about, in pixels.

    Returns:
        list[list[ndarray]]: Panels uint8 `[h, w, 3]`: a row a layer, a column a head.
    """
    rows = []
    for routing in routings:
        patch = patch_pixels(routing.grid, target)
        under = fit_image(image, routing.grid, patch)
        colours = expert_colours(routing.landmark_grid)
        maps = expert_map(routing)[0]
        chosen = range(len(maps)) if heads is None else heads
        rows.append([tint(under, enlarge(colours[maps[head]], patch)) for head in chosen])
    return rows


def draw_expert_maps(image, routings, heads, path):
    """Draw ``experts.png``.

    Args:
        image (ndarray): uint8 `[H, W, 3]`.
        routings (dict[str, Routing]): By the name of the layer.
        heads (Sequence[int]): Heads to draw.
        path (Path): The file.

    Returns:
        Path: The file.
    """
    panels = _beside_image(image, routings, expert_panels(image, routings.values(), heads))
    columns = ['image', *(f'head {head}' for head in heads)]
    mosaic = MosaicFigure(panels, list(routings), columns, 'The expert that each patch goes to')
    # Models whose layers differ in their landmarks are rare: the first layer's colours do.
    _add_key(mosaic, next(iter(routings.values())).landmark_grid)
    return mosaic.save(path)


def _beside_image(image, routings, panels):
    """Panels with the image before the first row."""
    grid = next(iter(routings.values())).grid
    under = fit_image(image, grid, patch_pixels(grid))
    return [[None if row else under, *rest] for row, rest in enumerate(panels)]


def _add_key(mosaic, landmark_grid):
    """Add the colours of the landmarks, each in its place, at the right."""
    rows, columns = landmark_grid
    side = 110 / max(rows, columns)  # pixels
    height, width = mosaic.shape
    key = mosaic.axes.inset_axes(
        (1 + 18 / width, 1 - rows * side / height, columns * side / width, rows * side / height)
    )
    key.imshow(expert_colours(landmark_grid).reshape(rows, columns, 3), aspect='auto')
    key.set(xticks=[], yticks=[])
    key.set_xlabel('colour: place\nof the landmark', fontsize=8)


def draw_shared_share(image, routings, heads, path):
    """Draw ``shared_share.png``; arguments as for :func:`draw_expert_maps`."""
    return _draw_values(
        image, routings, heads, path, shared_share, "The shared expert's share of the softmax"
    )


def draw_recall(image, routings, heads, path):
    """Draw ``recall.png``; arguments as for :func:`draw_expert_maps`."""
    title = "Full attention's mass on the keys of a patch's experts (recall)"
    return _draw_values(image, routings, heads, path, recall, title)


def draw_token_use(image, routings, heads, path):
    """Draw ``tokens_in_experts.png``; arguments as for :func:`draw_expert_maps`."""
    title = 'How many experts hold a patch as a key; black: none'
    return _draw_values(image, routings, heads, path, token_use, title, 'inferno')


def _draw_values(image, routings, heads, path, measure, title, colours='viridis'):
    values = {name: patches_of(measure(routing)[0], routing) for name, routing in routings.items()}
    shown = np.concatenate([maps[list(heads)].ravel() for maps in values.values()])
    limit = 1 if np.issubdtype(shown.dtype, np.floating) else max(1, shown.max())
    panels = [
        [
            enlarge(value_colours(maps[head] / limit, colours), patch_pixels(maps.shape[1:]))
            for head in heads
        ]
        for maps in values.values()
    ]
    panels = _beside_image(image, routings, panels)
    columns = ['image', *(f'head {head}' for head in heads)]
    mosaic = MosaicFigure(panels, list(routings), columns, title)
    scale = ScalarMappable(Normalize(0, limit), colours)
    bar = mosaic.figure.colorbar(
        scale, ax=mosaic.axes, shrink=min(1, 2.5 / mosaic.figure.get_size_inches()[1]), aspect=12
    )
    bar.ax.tick_params(labelsize=8)
    bar.ax.yaxis.get_major_locator().set_params(integer=limit > 1)
    return mosaic.save(path)


def patches_of(values, routing):
    """The patches of values for all tokens, `[..., N]` -> `[..., h, w]`."""
    stop = routing.start + routing.grid[0] * routing.grid[1]
    return values[..., routing.start : stop].reshape(*values.shape[:-1], *routing.grid)


def expert_picture(image, routings, heads=None, target=96):
    """The map of experts without any text, for a log.

    Args:
        image (ndarray): uint8 `[H, W, 3]`.
        routings (Sequence[Routing]): One for each layer.
        heads (Sequence[int], optional): All of them by default.
        target (int): Length of a panel, about, in pixels.

    Returns:
        ndarray: uint8 `[H', W', 3]`: a row a layer, a column a head, the image first.
    """
    panels = expert_panels(image, routings, heads, target)
    height, width = panels[0][0].shape[:2]
    under = fit_image(image, (height, width), 1)
    return make_mosaic([[under, *row] for row in panels], gap=4)[0]
