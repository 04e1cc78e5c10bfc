"""For each landmark of one head: its window, its keys, and the queries that go to it."""

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mita_seg.analysis import expert_keys, landmark_windows

from .colours import enlarge, fit_image, tint
from .mosaic import MosaicFigure

QUERY_COLOUR, KEY_COLOUR, WINDOW_COLOUR = (0, 130, 220), (255, 140, 0), (255, 255, 255)
_WIDEST = 1400  # pixels of all panels side by side
_TITLE = 26  # pixels above a panel


def draw_landmarks(image, routing, head, title, path):
    """Draw a panel for each landmark, in the place of its window.

    Args:
        image (ndarray): uint8 `[H, W, 3]`.
        routing (Routing): One call of an attention, of which the first image is drawn.
        head (int): Which head.
        title (str): Above it all.
        path (Path): The PNG file.

    Returns:
        Path: The file.
    """
    rows, columns = routing.landmark_grid
    patch = min(16, max(3, _WIDEST // (columns * routing.grid[1])))
    under = fit_image(image, routing.grid, patch)
    goes_to = routing.routes[0, head].cpu().numpy()  # [N, s]
    keys, windows = expert_keys(routing)[0, head], landmark_windows(routing)
    patches = range(routing.start, routing.start + routing.grid[0] * routing.grid[1])
    panels, texts = [], []
    for landmark, window in enumerate(windows):
        queries = (goes_to == landmark).any(1)
        panels.append(landmark_panel(under, routing, patch, queries, keys[landmark], window))
        others = sum(int(key) not in patches for key in keys[landmark])
        count = int(queries.sum())
        text = f'{landmark + 1}: {count:,} {"query" if count == 1 else "queries"}'
        texts.append(text + (f', +{others} key{"s" * (others > 1)}' if others else ''))
    mosaic = MosaicFigure(
        [panels[row * columns : (row + 1) * columns] for row in range(rows)],
        [''] * rows,
        [''] * columns,
        title,
        gap=_TITLE,
    )
    for index, text in enumerate(texts):
        top, left = mosaic.tops[index // columns], mosaic.lefts[index % columns]
        size = min(8.5, 1.1 * mosaic.size[1] / len(text))
        mosaic.axes.text(left, top - 4, text, fontsize=size, va='bottom', ha='left')
    mosaic.figure.legend(
        handles=landmark_legend(routing, texts),
        loc='outside lower center',
        ncols=2 if columns * routing.grid[1] * patch < 900 else 4,
        fontsize=9,
        frameon=False,
    )
    return mosaic.save(path)


def landmark_panel(under, routing, patch, queries, keys, window):
    """One landmark over an image.

    Args:
        under (ndarray): The image, uint8 `[h * patch, w * patch, 3]`.
        routing (Routing): What the grids are those of.
        patch (int): Pixels a side of a patch.
        queries (ndarray): Which tokens go to its expert, bool `[N]`.
        keys (ndarray): Tokens that are keys of its expert, `[k]`.
        window (ndarray): Top, left, bottom and right of its window, patches.

    Returns:
        ndarray: uint8, of the shape of `under`.
    """
    grid, start = routing.grid, routing.start
    stop = start + grid[0] * grid[1]
    routed = enlarge(queries[start:stop].reshape(*grid, 1), patch)
    panel = tint(under, np.array(QUERY_COLOUR), 0.6 * routed)
    border = patch // 6 if patch >= 8 else 0  # of small patches the key would be a dot
    for key in keys:
        if start <= key < stop:
            row, column = divmod(int(key) - start, grid[1])
            cell = panel[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            cell[border : patch - border, border : patch - border] = KEY_COLOUR
    top, left, bottom, right = window * patch
    # A dark line beside the light one shows on any picture.
    _outline(panel, top, left, bottom, right, max(2, patch // 4), (0, 0, 0))
    _outline(panel, top, left, bottom, right, max(1, patch // 8), WINDOW_COLOUR)
    return panel


def _outline(panel, top, left, bottom, right, width, colour):
    box = panel[top:bottom, left:right]
    box[:width] = box[-width:] = colour
    box[:, :width] = box[:, -width:] = colour


def landmark_legend(routing, texts):
    """Handles of a legend; of keys that are no patches, if one of the `texts` counts some."""

    def colour(rgb):
        return np.array(rgb) / 255

    handles = [
        Patch(facecolor=colour(QUERY_COLOUR), alpha=0.6, label='queries that go to its expert'),
        Patch(facecolor=colour(KEY_COLOUR), label=f'its {routing.experts.shape[-1]:,} keys'),
        Line2D([], [], color='black', linewidth=2, label='window of the landmark'),
    ]
    if any('+' in text for text in texts):
        handles.append(Line2D([], [], linestyle='', label='+: keys that are no patches'))
    return handles
