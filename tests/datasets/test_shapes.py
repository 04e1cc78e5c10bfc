import hashlib

import cv2
import numpy as np
import pytest

pytest.importorskip('mmseg')

from dataset_converters.shapes import write_shapes
from mita_seg.datasets.shapes import CLASSES, draw_scene


def digest(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def test_scene():
    scenes = [draw_scene(np.random.default_rng([0, i]), 64) for i in range(40)]
    image, labels = scenes[0]
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert labels.shape == (64, 64) and labels.dtype == np.uint8
    share = np.bincount(np.stack([s[1] for s in scenes]).ravel(), minlength=len(CLASSES) + 1)
    assert len(share) == len(CLASSES) + 1
    assert (share[1:] > 0.02 * share.sum()).all()
    assert 0 < share[0] < 0.02 * share.sum()


def test_layout_and_reproducibility(tmp_path):
    assert write_shapes(tmp_path / 'a', num_train=3, num_val=2, size=48, seed=5)
    assert write_shapes(tmp_path / 'b', num_train=3, num_val=2, size=48, seed=5)
    first = digest(tmp_path / 'a')
    assert first == digest(tmp_path / 'b')
    assert len(list((tmp_path / 'a/images/training').glob('*.jpg'))) == 3
    assert len(list((tmp_path / 'a/annotations/validation').glob('*.png'))) == 2
    image = cv2.imread(str(next((tmp_path / 'a/images/validation').iterdir())))
    assert image.shape == (48, 48, 3)

    # More images leave the earlier ones as they are; another seed changes them.
    assert write_shapes(tmp_path / 'b', num_train=4, num_val=2, size=48, seed=5)
    second = digest(tmp_path / 'b')
    assert {key: second[key] for key in first if key != 'shapes.json'} == {
        key: value for key, value in first.items() if key != 'shapes.json'
    }
    assert write_shapes(tmp_path / 'b', num_train=3, num_val=2, size=48, seed=6)
    assert not set(first.values()) & set(digest(tmp_path / 'b').values())


def test_existing_folder(tmp_path):
    out = tmp_path / 'out'
    settings = {'num_train': 2, 'num_val': 1, 'size': 32}
    (tmp_path / 'out.partial' / 'images').mkdir(parents=True)
    assert write_shapes(out, **settings)
    assert not (tmp_path / 'out.partial').exists()
    assert not write_shapes(out, **settings)
    next((out / 'images/training').iterdir()).unlink()
    assert write_shapes(out, **settings)
    assert not write_shapes(out, **settings)


def test_bad_settings(tmp_path):
    for name, value in (('num_train', 0), ('num_val', 0), ('size', 31), ('seed', -1)):
        with pytest.raises(ValueError, match=f'{name} .*{value}'):
            write_shapes(tmp_path / 'out', **{name: value})
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(ValueError, match='other files'):
        write_shapes(tmp_path)
    with pytest.raises(ValueError, match='is a file'):
        write_shapes(tmp_path / 'notes.txt')
