"""Annotation files that hold something else: one sentence, or an image that is left out.

Most were found by ``make test-fuzz``.
"""

import json

import numpy as np
import pytest

pytest.importorskip('mmseg')

from dataset_converters.own_data.class_list import read_class_file
from dataset_converters.own_data.coco import find_coco
from dataset_converters.own_data.labelme import find_labelme
from dataset_converters.own_data.run_lengths import decode_runs

SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]
IMAGE = {'id': 0, 'file_name': 'a.jpg', 'height': 8, 'width': 9}
ANNOTATION = {'image_id': 0, 'category_id': 1, 'area': 16, 'segmentation': SQUARE}


def coco(folder, **parts):
    """The codes of the only image."""
    content = {'images': [IMAGE], 'annotations': [ANNOTATION]}
    content |= {'categories': [{'id': 1, 'name': 'house'}], **parts}
    (folder / 'a.jpg').touch()
    (pair,) = find_coco(folder, {folder / 'a.json': content}).pairs
    return pair.read_codes()


def test_a_sound_file_is_drawn(tmp_path):
    assert coco(tmp_path).sum() == 16


@pytest.mark.parametrize(
    ('parts', 'words'),
    [
        ({'categories': {}}, r"a\.json': categories is no list"),
        ({'categories': [{'id': [], 'name': 'x'}]}, r'categories\[0\] has no valid id'),
        ({'categories': [{'id': 1}]}, r'categories\[0\] has no valid name'),
        ({'images': [IMAGE, []]}, r'images\[1\] has no valid id'),
        ({'images': [{**IMAGE, 'file_name': None}]}, r'images\[0\] has no valid file_name'),
        ({'annotations': [{**ANNOTATION, 'image_id': {}}]}, r'annotations\[0\] has no valid ima'),
    ],
)
def test_lists_of_something_else_are_refused(tmp_path, parts, words):
    with pytest.raises(ValueError, match=words):
        coco(tmp_path, **parts)


@pytest.mark.parametrize(
    'parts',
    [
        {'images': [{**IMAGE, 'height': 10**6, 'width': 10**6}]},
        {'images': [{**IMAGE, 'height': -1}]},
        {'images': [{**IMAGE, 'width': None}]},
        {'images': [{**IMAGE, 'width': True}]},
        {'images': [{'id': 0, 'file_name': 'a.jpg'}]},
        {'annotations': [{**ANNOTATION, 'category_id': 5}]},
        {'annotations': [{**ANNOTATION, 'category_id': []}]},
        {'annotations': [{**ANNOTATION, 'area': None}]},
        {'annotations': [{**ANNOTATION, 'segmentation': 3}]},
        {'annotations': [{**ANNOTATION, 'segmentation': [[1, 2, None, 4]]}]},
        {'annotations': [{**ANNOTATION, 'segmentation': [[float('nan')] * 8]}]},
        {'annotations': [{**ANNOTATION, 'segmentation': {'size': [10**9, 10**9], 'counts': []}}]},
        {'annotations': [{**ANNOTATION, 'segmentation': {'size': [8, 9], 'counts': 'o' * 99999}}]},
        {'annotations': [{**ANNOTATION, 'segmentation': {'size': [8, 9], 'counts': [10**30]}}]},
        {'annotations': [{**ANNOTATION, 'segmentation': {'size': 3, 'counts': None}}]},
    ],
)
def test_damaged_annotations_leave_out_their_image(tmp_path, parts):
    with pytest.raises(ValueError, match='^image with a damaged annotation$'):
        coco(tmp_path, **parts)


def labelme(folder, image='a.jpg', height=8, **shape):
    (folder / 'a.jpg').touch()
    shape = {'label': 'x', 'points': [[0, 0], [4, 0], [4, 4]], **shape}
    content = {'imagePath': image, 'imageHeight': height, 'imageWidth': 9, 'shapes': [shape]}
    return find_labelme(folder, {folder / 'a.json': content})


@pytest.mark.parametrize(
    'wrong',
    [
        {'height': 10**9},
        {'height': 'x'},
        {'height': None},
        {'points': 3},
        {'points': [[0, 0], [None, 1]]},
        {'points': [['a', 'b']], 'shape_type': 'circle'},
        {'points': [], 'shape_type': 'rectangle'},
        {'shape_type': {'a': 1}},
    ],
)
def test_damaged_outlines_leave_out_their_image(tmp_path, wrong):
    (pair,) = labelme(tmp_path, **wrong).pairs
    with pytest.raises(ValueError):
        pair.read_codes()


@pytest.mark.parametrize('image', [None, 3, 'x' * 5000, 'a\0.jpg', '../a.jpg', '/etc/passwd', {}])
def test_images_that_are_nowhere_or_outside_are_left_out(tmp_path, image):
    (tmp_path / 'a.jpg').touch()
    (tmp_path / 'in').mkdir()
    found = labelme(tmp_path / 'in', image=image)
    assert not found.pairs and list(found.problems) == ['annotated image that is missing']


def test_shapes_of_something_else_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.json': shapes\[0\] has no valid label"):
        labelme(tmp_path, label=[])


@pytest.mark.parametrize(
    'content', [[[]], {'a': 3}, [{'name': 'a', 'color': 5}], 3, [{'name': []}, {'value': {}}]]
)
def test_class_lists_of_something_else_are_refused(tmp_path, content):
    (tmp_path / 'classes.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"^class list '.*classes\.json' cannot be read: "):
        read_class_file(tmp_path / 'classes.json')


def test_run_lengths_are_of_the_image(tmp_path):
    assert np.array_equal(decode_runs({'size': [1, 2], 'counts': [1, 1]}, (1, 2)), [[False, True]])
    with pytest.raises(ValueError, match='of another size'):
        decode_runs({'size': [2, 1], 'counts': [1, 1]}, (1, 2))
