"""Annotations in COCO's format."""

import os
from collections import defaultdict
from functools import partial
from pathlib import Path

from .pairs import Found, Pair, check_entries, empty_canvas, split_named
from .polygons import fill
from .run_lengths import decode_runs


def find_coco(folder, files):
    """Read COCO's annotation files; categories become classes.

    Args:
        folder (Path): Below it are the images, wherever.
        files (dict[Path, dict]): The annotation files and what they hold.

    Returns:
        Found: A pair for each image that a file lists and that has an annotation.

    Raises:
        ValueError: Files disagree about a category, or hold something else.
    """
    found = Found('COCO polygons', [], names={})
    present = defaultdict(list)
    for parent, _, names in os.walk(folder):
        for name in names:
            present[name].append(Path(parent, name))
    codes, listed = {}, {}
    for file, content in files.items():
        check_entries(file, 'categories', content['categories'], id=int, name=(str, int))
        check_entries(file, 'images', content['images'], id=(int, str), file_name=str)
        check_entries(file, 'annotations', content['annotations'], image_id=(int, str))
        for category in sorted(content['categories'], key=lambda category: category['id']):
            name = str(category['name'])
            if listed.setdefault(category['id'], name) != name:
                raise ValueError(
                    f'the COCO files disagree about category {category["id"]}: '
                    f'{listed[category["id"]]!r} and {name!r}'
                )
            codes.setdefault(name, len(codes) + 1)
    found.names = {code: name for name, code in codes.items()}
    for file, content in files.items():
        by_image = defaultdict(list)
        for annotation in content['annotations']:
            by_image[annotation['image_id']].append(annotation)
        for image in content['images']:
            path = _locate(image['file_name'], present)
            if path is None:
                found.leave_out('annotated image that is missing', image['file_name'])
            elif not by_image[image['id']]:
                found.leave_out('image without an annotation', path)
            else:
                read = partial(_draw, image, by_image[image['id']], codes, listed)
                split = split_named(file.relative_to(folder)) or split_named(
                    path.relative_to(folder)
                )
                found.pairs.append(Pair(path, file, read, split))
    return found


def _draw(image, annotations, codes, listed):
    """Codes of an image, the largest annotations first so that small ones stay visible."""
    canvas = empty_canvas(image.get('height'), image.get('width'))
    try:
        for annotation in sorted(annotations, key=lambda each: -each.get('area', 0)):
            code = codes[listed[annotation['category_id']]]
            shape = annotation.get('segmentation')
            if isinstance(shape, dict):
                canvas[decode_runs(shape, canvas.shape)] = code
            elif shape:
                for ring in shape:
                    fill(canvas, ring, code)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise ValueError('image with a damaged annotation') from error
    return canvas


def _locate(name, present):
    """The file of an image by its name; with several, that whose path ends as the name says."""
    options = present.get(Path(name).name, [])
    if len(options) > 1:
        options = [path for path in options if path.as_posix().endswith('/' + name)]
    return options[0] if len(options) == 1 else None
