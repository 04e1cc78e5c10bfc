"""One picture that says what MiTA does: image, prediction, experts, and the keys of one expert."""

import numpy as np
from PIL import Image

from mita_seg.analysis import expert_keys, expert_map, landmark_windows

from .colours import enlarge, expert_colours, fit_image, tint
from .landmark_pictures import landmark_legend, landmark_panel
from .mosaic import MosaicFigure, patch_pixels

_PANEL = 300  # pixels, about


def draw_overview(image, labels, routings, head, palette, path):
    """Draw ``overview.png``, of the last layer of the backbone, or of the last one there is.

    The landmark shown is the one that most queries go to.

    Args:
        image (ndarray): uint8 `[H, W, 3]`.
        labels (ndarray): The predicted class of each patch, `[h, w]`.
        routings (dict[str, Routing]): By the name of the layer.
        head (int): Which head.
        palette (ndarray): uint8 `[classes, 3]`.
        path (Path): The file.

    Returns:
        Path: The file.
    """
    layers = list(routings)
    layer = next((name for name in reversed(layers) if name.startswith('backbone')), layers[-1])
    routing = routings[layer]
    patch = patch_pixels(routing.grid, _PANEL)
    under = fit_image(image, routing.grid, patch)
    size = under.shape[1::-1]
    classes = np.asarray(Image.fromarray(labels.astype(np.int32)).resize(size, Image.NEAREST))
    experts = enlarge(expert_colours(routing.landmark_grid)[expert_map(routing)[0, head]], patch)

    goes_to = routing.routes[0, head].cpu().numpy()  # [N, s]
    landmark = int(np.bincount(goes_to.ravel()).argmax())
    queries = (goes_to == landmark).any(1)
    keys, window = expert_keys(routing)[0, head, landmark], landmark_windows(routing)[landmark]
    panels = [
        under,
        tint(under, palette[classes]),
        tint(under, experts),
        landmark_panel(under, routing, patch, queries, keys, window),
    ]
    columns = ['image', 'prediction', 'expert of each patch', f'landmark {landmark + 1}']
    mosaic = MosaicFigure([panels], [''], columns, f'{layer}, head {head}', gap=10)
    mosaic.figure.legend(
        handles=landmark_legend(routing, []),
        loc='outside lower right',
        ncols=3,
        fontsize=9,
        frameon=False,
    )
    return mosaic.save(path)
