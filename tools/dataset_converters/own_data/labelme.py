"""Annotations of LabelMe, a JSON file beside each image."""

import os
from functools import partial

import numpy as np

from .pairs import Found, Pair, check_entries, empty_canvas, split_named
from .polygons import fill, fill_circle


def find_labelme(folder, files):
    """Read LabelMe's files; labels become classes, in alphabetical order.

    Args:
        folder (Path): The folder.
        files (dict[Path, dict]): The annotation files and what they hold.

    Returns:
        Found: A pair for each file whose image is there.

    Raises:
        ValueError: A file holds something else.
    """
    found = Found('LabelMe outlines', [], names={})
    for file, content in files.items():
        check_entries(file, 'shapes', content['shapes'], label=(str, int))
    labels = sorted({str(shape['label']) for each in files.values() for shape in each['shapes']})
    codes = {label: code for code, label in enumerate(labels, 1)}
    found.names = {code: label for label, code in codes.items()}
    for file, content in files.items():
        # Files from Windows have backslashes.
        image = file.parent / str(content.get('imagePath', '')).replace('\\', '/')
        # Unlike Path.is_file, it takes any text.
        if not os.path.isfile(image) or folder.resolve() not in image.resolve().parents:
            found.leave_out('annotated image that is missing', image)
            continue
        read = partial(_draw, content, codes)
        found.pairs.append(Pair(image, file, read, split_named(image.relative_to(folder))))
    return found


def _draw(content, codes):
    try:
        return _draw_shapes(content, codes)
    except (KeyError, TypeError, IndexError, OverflowError) as error:
        raise ValueError('image with a damaged annotation') from error


def _draw_shapes(content, codes):
    canvas = empty_canvas(content.get('imageHeight'), content.get('imageWidth'))
    # In the order of the file: later outlines lie over earlier ones.
    for shape in content['shapes']:
        points, code = np.array(shape['points'], float), codes[str(shape['label'])]
        kind = shape.get('shape_type') or 'polygon'
        if kind == 'polygon':
            fill(canvas, points, code)
        elif kind == 'rectangle':
            (left, top), (right, bottom) = points.min(0), points.max(0)
            fill(canvas, [left, top, right, top, right, bottom, left, bottom], code)
        elif kind == 'circle':
            centre, edge = points
            fill_circle(canvas, centre, np.hypot(*(edge - centre)), code)
        else:
            raise ValueError(f'image with a shape of type {kind!r}, which has no area here')
    return canvas
