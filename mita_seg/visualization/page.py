"""The HTML page: one file that needs nothing else."""

import base64
import html
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from mita_seg.analysis import (
    attention_rows,
    expert_keys,
    landmark_windows,
    recall,
    shared_share,
    token_use,
)
from mita_seg.utils.files import replacing

from .class_queries import class_tokens, largest_classes
from .colours import expert_colours
from .maps import patches_of

_FOLDER = Path(__file__).with_name('page_parts')
_CAPTIONS = {
    'experts': 'The expert that each patch goes to; one row a layer, one column a head.',
    'layers': 'From layer to layer: tokens in no expert, use of the tokens, the shared '
    "expert's share, and recall of full attention.",
    'class_queries': 'Where the query of each class looks in the decoder.',
    'shared_share': "The shared expert's share of each patch's softmax, or the remainder's.",
    'recall': "How much of full attention's mass lies on the keys of a patch's experts.",
    'tokens_in_experts': 'How many experts hold each patch as a key.',
}
_MOST_CLASSES = 24
_LONGEST_SIDE = 1024  # pixels of the image in the page


def describe_image(name, image, labels, routings, heads, classes, figures):
    """What the page knows of an image.

    Args:
        name (str): Name of the image.
        image (ndarray): uint8 `[H, W, 3]`.
        labels (ndarray): The predicted class of each patch, `[h, w]`.
        routings (dict[str, Routing]): By the name of the layer.
        heads (Sequence[int]): Heads to show.
        classes (Sequence[str]): Names of the classes.
        figures (Sequence[Path]): PNG files to show with it.

    Returns:
        dict: Numbers, text, and arrays in base64.
    """
    shown = largest_classes(labels, _MOST_CLASSES)
    return {
        'name': name,
        'image': _image_address(image),
        'layers': [
            _describe_layer(layer, routing, heads, classes, shown)
            for layer, routing in routings.items()
        ],
        'figures': [
            {
                'name': figure.stem,
                'caption': _CAPTIONS[figure.stem],
                'image': _address(figure.read_bytes(), 'png'),
            }
            for figure in sorted(figures, key=lambda figure: list(_CAPTIONS).index(figure.stem))
        ],
    }


def write_page(path, title, images):
    """Write the page of :func:`build_page` to a file; return its path."""
    with replacing(path) as file:
        file.write(build_page(title, images))
    return path


def build_page(title, images):
    """Fill the page.

    Args:
        title (str): What was looked at, such as config and checkpoint.
        images (Sequence[dict]): From :func:`describe_image`.

    Returns:
        str: HTML with styles, program, data and pictures in it.
    """
    # Within a script element only this could end it.
    data = json.dumps(images, separators=(',', ':')).replace('</', '<\\/')
    parts = {
        'TITLE': html.escape(title),
        'STYLE': (_FOLDER / 'style.css').read_text(),
        'DATA': data,
        'PROGRAM': (_FOLDER / 'page.js').read_text(),
    }
    page = (_FOLDER / 'page.html').read_text()
    for name, text in parts.items():
        page = page.replace(f'[[{name}]]', text)
    return page


def _describe_layer(layer, routing, heads, classes, shown):
    looks = _looking_tokens(routing, classes, shown)
    rows = patches_of(attention_rows(routing, looks)[0], routing)  # [H, n, h, w]
    rows = rows / np.maximum(rows.max((2, 3), keepdims=True), 1e-12)
    keys = expert_keys(routing)[0]
    shares, recalls, use = (
        measure(routing)[0] for measure in (shared_share, recall, token_use)
    )  # [H, N]
    share_maps, recall_maps, use_maps = (
        patches_of(values, routing) for values in (shares, recalls, use)
    )
    routes = patches_of(routing.routes[0].mT.cpu().numpy(), routing)  # [H, s, h, w]
    names = _special_names(routing, classes)
    return {
        'name': layer,
        'grid': routing.grid,
        'start': routing.start,
        'special': names,
        'landmarks': routing.landmark_grid,
        'colours': [f'rgb({r},{g},{b})' for r, g, b in expert_colours(routing.landmark_grid)],
        'windows': landmark_windows(routing).tolist(),
        'topk': keys.shape[-1],
        'routed': routing.options.num_routed,
        'looks': [names[token] for token in looks],
        'heads': [
            {
                'head': head,
                'routes': _pack(routes[head], np.uint16),
                'keys': _pack(keys[head], np.uint32),
                'share': _pack(np.rint(255 * share_maps[head]), np.uint8),
                'recall': _pack(np.rint(255 * recall_maps[head]), np.uint8),
                'use': _pack(use_maps[head], np.uint16),
                'looks': _pack(np.rint(255 * rows[head]), np.uint8),
                'unused': float((use[head] == 0).mean()),
                'meanShare': float(shares[head].mean()),
                'meanRecall': float(recalls[head].mean()),
            }
            for head in heads
        ],
    }


def _special_names(routing, classes):
    """What the tokens are that are no patches, by their indices."""
    queries = class_tokens(routing, classes)
    if len(queries) == 1:
        named = {queries[0]: 'foreground query'}
    else:
        named = {token: f'query of {classes[i]}' for i, token in enumerate(queries)}
    before = [token for token in routing.special_tokens if token not in named]
    return {**{token: _special_name(token) for token in before}, **named}


def _special_name(token):
    return 'class token' if token == 0 else f'special token {token}'


def _looking_tokens(routing, classes, shown):
    """The special tokens of which the page shows where they look: of classes those shown."""
    queries = class_tokens(routing, classes)
    others = [token for token in routing.special_tokens if token not in queries]
    chosen = [queries[i] for i in shown] if len(queries) > 1 else queries
    return [*others, *chosen][:_MOST_CLASSES]


def _image_address(image):
    picture = Image.fromarray(image)
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, 'JPEG', quality=88)
    return _address(file.getvalue(), 'jpeg')


def _address(content, kind):
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def _pack(values, dtype):
    """Numbers as base64 of little-endian bytes."""
    packed = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder('<'))
    return base64.b64encode(packed.tobytes()).decode()
