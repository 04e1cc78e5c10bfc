import cv2
import numpy as np
import pytest

pytest.importorskip('mmseg')

from PIL import ExifTags, Image

from dataset_converters import ade20k as ade20k_check


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A complete copy of a data set of 4 + 2 pairs."""
    monkeypatch.setattr(ade20k_check, 'PAIRS', {'training': 4, 'validation': 2})
    rng = np.random.default_rng(0)
    for split, count in ade20k_check.PAIRS.items():
        for folder in ('images', 'annotations'):
            (tmp_path / folder / split).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / f'images/{split}/{index}.jpg'), pixels)
            labels = rng.integers(0, 151, (24, 32), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / f'annotations/{split}/{index}.png'), labels)
    return tmp_path


def run(tool, capsys, *arguments):
    status = tool('prepare_ade20k').main([*map(str, arguments), '--workers', '1'])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_complete_copy(root, tool, capsys):
    status, out, _ = run(tool, capsys, root)
    assert status == 0
    assert 'complete' in out
    assert f'ln -s {root} data/ade/ADEChallengeData2016' in out


def test_missing_folder_says_where_to_get_it(tmp_path, tool, capsys):
    status, _, err = run(tool, capsys, tmp_path)
    assert status == 1
    assert 'annotations/validation' in err
    assert 'sceneparsing.csail.mit.edu' in err


def test_every_fault_is_named(root, tool, capsys):
    (root / 'images/training/0.jpg').unlink()
    (root / 'annotations/training/1.png').unlink()
    truncated = root / 'images/training/2.jpg'
    truncated.write_bytes(truncated.read_bytes()[:300])
    labels = root / 'annotations/training/3.png'
    cv2.imwrite(str(labels), np.full((24, 32), 151, np.uint8))
    cv2.imwrite(str(root / 'annotations/validation/0.png'), np.zeros((24, 31), np.uint8))
    cv2.imwrite(str(root / 'annotations/validation/1.png'), np.zeros((24, 32, 3), np.uint8))
    status, out, _ = run(tool, capsys, root)
    assert status == 1
    expected = {
        'training: 2 pairs instead of 4': None,
        'label maps without an image: 1': 'annotations/training/0.png',
        'images without a label map: 1': 'images/training/1.jpg',
        'unreadable or truncated files: 1': 'images/training/2.jpg',
        'label maps with values above 150: 1': 'annotations/training/3.png',
        'label maps of another size than their image: 1': 'annotations/validation/0.png',
        'label maps that are not one channel of class indices: 1': 'annotations/validation/1.png',
    }
    lines = out.splitlines()
    for what, file in expected.items():
        assert what in lines
        assert file is None or lines[lines.index(what) + 1].strip() == file

    # Decoding is what finds the last four.
    status, out, _ = run(tool, capsys, root, '--quick')
    assert status == 1
    assert 'truncated' not in out and 'training: 2 pairs instead of 4' in out


def test_images_with_an_orientation_are_named_but_no_fault(root, tool, capsys):
    path = root / 'images/training/2.jpg'
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    with Image.open(path) as image:
        image.load()
        image.save(path, exif=exif)
    status, out, _ = run(tool, capsys, root)
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith('images with an EXIF orientation') and lines[0].endswith(': 1')
    assert lines[1].strip() == 'images/training/2.jpg'


@pytest.mark.parametrize('other', ['2.JPG', '2.jpeg', '2.JPEG'])
def test_images_that_training_would_skip_are_named(root, tool, capsys, other):
    (root / 'images/training/2.jpg').rename(root / 'images/training' / other)
    (root / 'images/training/notes.txt').touch()
    status, out, _ = run(tool, capsys, root, '--quick')
    assert status == 1
    assert f'do not end in .jpg: 1\n    images/training/{other}\n' in out
    assert 'notes.txt' not in out
