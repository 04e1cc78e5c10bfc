import struct
import zlib

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from mmseg.registry import TRANSFORMS
from PIL import ExifTags, Image

from mita_seg.datasets import LoadCheckedImage, LoadCheckedLabels
from mita_seg.datasets.orientation import exif_orientation


def write(path, pixels):
    assert cv2.imwrite(str(path), pixels)
    return str(path)


def sample(path, reduce_zero_label=False, label_map=None):
    return {
        'seg_map_path': str(path),
        'reduce_zero_label': reduce_zero_label,
        'label_map': label_map,
        'seg_fields': [],
    }


def test_registered():
    assert TRANSFORMS.get('LoadCheckedImage') is LoadCheckedImage
    assert TRANSFORMS.get('LoadCheckedLabels') is LoadCheckedLabels


@pytest.mark.parametrize('damage', ['empty', 'text', 'truncated'])
def test_damaged_files_are_named(tmp_path, damage):
    pixels = np.random.default_rng(0).integers(0, 5, (64, 64), dtype=np.uint8)
    for name, load in (
        ('bad.jpg', lambda p: LoadCheckedImage()({'img_path': p})),
        ('bad.png', lambda p: LoadCheckedLabels(num_classes=5)(sample(p))),
    ):
        path = write(tmp_path / name, pixels)
        data = (tmp_path / name).read_bytes()
        content = {'empty': b'', 'text': b'not an image', 'truncated': data[: len(data) // 2]}
        (tmp_path / name).write_bytes(content[damage])
        with pytest.raises(ValueError, match=name):
            load(path)


def test_missing_files_are_named():
    with pytest.raises(FileNotFoundError, match=r'gone\.jpg'):
        LoadCheckedImage()({'img_path': 'gone.jpg'})
    with pytest.raises(FileNotFoundError, match=r'gone\.png'):
        LoadCheckedLabels(num_classes=5)(sample('gone.png'))


@pytest.mark.parametrize('label_map', [None, {0: 255, 1: 0, 2: 1, 3: 255, 4: 2}])
@pytest.mark.parametrize('reduce_zero_label', [False, True])
def test_labels_equal_the_stock_transform(tmp_path, reduce_zero_label, label_map):
    values = [0, 1, 2, 3, 4, 255] + [5] * reduce_zero_label
    path = write(tmp_path / 'a.png', np.resize(np.array(values, np.uint8), (9, 14)))
    got = LoadCheckedLabels(num_classes=5)(sample(path, reduce_zero_label, label_map))
    want = LoadAnnotations()(sample(path, reduce_zero_label, label_map))
    assert np.array_equal(got['gt_seg_map'], want['gt_seg_map'])
    assert got['gt_seg_map'].dtype == np.uint8
    assert got['seg_fields'] == ['gt_seg_map']


@pytest.mark.parametrize('reduce_zero_label, highest', [(False, 4), (True, 5)])
def test_labels_outside_the_classes(tmp_path, reduce_zero_label, highest):
    labels = np.zeros((8, 8), np.uint8)
    labels[0, :2] = highest, 255
    load = LoadCheckedLabels(num_classes=5)
    load(sample(write(tmp_path / 'good.png', labels), reduce_zero_label))
    labels[3, :2] = highest + 1, 77
    with pytest.raises(
        ValueError, match=rf"bad\.png' holds {highest + 1}, 77; accepted: 0\.\.{highest} and 255"
    ):
        load(sample(write(tmp_path / 'bad.png', labels), reduce_zero_label))


def test_sixteen_bit_labels_are_not_wrapped(tmp_path):
    # The stock transform would read 257 as 1.
    path = write(tmp_path / 'wide.png', np.full((8, 8), 257, np.uint16))
    with pytest.raises(ValueError, match='holds 257'):
        LoadCheckedLabels(num_classes=5)(sample(path))


def test_colour_labels_and_other_sizes(tmp_path):
    load = LoadCheckedLabels(num_classes=5)
    with pytest.raises(ValueError, match=r'colour\.png.* one channel'):
        load(sample(write(tmp_path / 'colour.png', np.ones((8, 8, 3), np.uint8))))
    path = write(tmp_path / 'small.png', np.zeros((8, 6), np.uint8))
    with pytest.raises(ValueError, match=r'small\.png.* 6x8 pixels, its image 10x12'):
        load({**sample(path), 'ori_shape': (12, 10)})


def test_without_labels_the_sample_passes():
    assert LoadCheckedLabels(num_classes=5)({'img_path': 'a.jpg'}) == {'img_path': 'a.jpg'}


@pytest.mark.parametrize('value', [0, 255, -1])
def test_num_classes_range(value):
    with pytest.raises(ValueError, match=f'num_classes .*{value}'):
        LoadCheckedLabels(num_classes=value)


@pytest.mark.parametrize('value', [None, 2.0, True])
def test_num_classes_type(value):
    with pytest.raises(TypeError, match='num_classes'):
        LoadCheckedLabels(num_classes=value)


@pytest.mark.parametrize('reduce_zero_label', [False, True])
def test_more_classes_than_bytes_hold(tmp_path, reduce_zero_label):
    """Masks of 16 bits, in which 255 is a class like any other."""
    values = np.array([1, 254, 255, 256, 300, 399, 65535], np.uint16)
    path = write(tmp_path / 'wide.png', np.tile(values, (4, 1)))
    load = LoadCheckedLabels(num_classes=400, ignore_index=65535)
    got = load(sample(path, reduce_zero_label, {300: 7}))['gt_seg_map']
    shift = int(reduce_zero_label)
    expected = [1, 254, 255, 256, 300, 399]
    expected = [value - shift for value in expected] + [65535]
    if not reduce_zero_label:
        expected[4] = 7
    assert got[0].tolist() == expected and got.dtype == np.uint16
    with pytest.raises(ValueError, match=r'holds 399; accepted: 0\.\.38. and 65535'):
        LoadCheckedLabels(num_classes=389 - shift, ignore_index=65535)(
            sample(path, reduce_zero_label)
        )


def test_labels_of_16_bits_reach_the_model_as_they_are(tmp_path):
    path = write(tmp_path / 'wide.png', np.full((8, 8), 300, np.uint16))
    results = LoadCheckedLabels(num_classes=400, ignore_index=65535)(sample(path))
    packed = PackSegInputs(meta_keys=())({**results, 'img': np.zeros((8, 8, 3), np.uint8)})
    labels = packed['data_samples'].gt_sem_seg.data
    assert labels.dtype == torch.int64 and (labels == 300).all()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'num_classes': 300}, r'must be in 1\.\.254, got 300; ignore_index=65535 takes more'),
        ({'num_classes': 65535, 'ignore_index': 65535}, r'must be in 1\.\.65534, got 65535$'),
        ({'num_classes': 5, 'ignore_index': 0}, 'ignore_index must be 255 or 65535, got 0'),
    ],
)
def test_numbers_of_classes_that_no_mask_holds(options, message):
    with pytest.raises(ValueError, match=message):
        LoadCheckedLabels(**options)


ROWS = np.arange(48, dtype=np.uint8).reshape(6, 8)


def write_oriented(path, pixels, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return str(path)


@pytest.mark.parametrize('suffix', ['png', 'jpg'])
@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_images_and_labels_are_read_as_stored(tmp_path, suffix, orientation, backend):
    path = write_oriented(tmp_path / f'a.{suffix}', ROWS, orientation)
    color = LoadCheckedImage(imdecode_backend=backend)({'img_path': path})
    gray = LoadCheckedImage(imdecode_backend=backend, color_type='grayscale')({'img_path': path})
    with Image.open(path) as stored:
        want = np.asarray(stored)
    for results in (color, gray):
        assert results['img'].shape[:2] == results['ori_shape'] == (6, 8)
        channel = results['img'] if results['img'].ndim == 2 else results['img'][..., 0]
        assert np.abs(channel.astype(int) - want).max() <= 1  # decoders of JPEG differ so much
    if suffix == 'png':
        load = LoadCheckedLabels(num_classes=48, imdecode_backend=backend)
        assert np.array_equal(load({**sample(path), **color})['gt_seg_map'], ROWS)


@pytest.mark.parametrize('suffix, told', [('jpg', 3), ('png', 3), ('tif', 1)])
def test_orientation_that_loading_leaves_out(tmp_path, suffix, told):
    path = write_oriented(tmp_path / f'a.{suffix}', ROWS, 3)
    assert exif_orientation(path) == told
    # In a TIFF it is part of the format: every decoder turns the image, with labels or without.
    turned = cv2.imread(path, cv2.IMREAD_COLOR)
    assert np.array_equal(LoadCheckedImage()({'img_path': path})['img'], turned) == (told == 1)


def test_label_drawn_on_the_turned_image_is_refused_with_the_reason(tmp_path):
    image = write_oriented(tmp_path / 'a.jpg', ROWS, 6)
    path = write(tmp_path / 'a.png', np.zeros((8, 6), np.uint8))
    load = LoadCheckedLabels(num_classes=5)
    with pytest.raises(ValueError, match=r'is 6x8 pixels, its image 8x6; .*EXIF orientation 6'):
        load({**sample(path), **LoadCheckedImage()({'img_path': image})})


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('shape', [(1, 7), (7, 1), (1, 1)])
def test_labels_of_one_row_or_column(tmp_path, shape, backend):
    labels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    load = LoadCheckedLabels(num_classes=7, imdecode_backend=backend)
    got = load({**sample(write(tmp_path / 'a.png', labels)), 'ori_shape': shape})
    assert np.array_equal(got['gt_seg_map'], labels)
    colours = write(tmp_path / 'colour.png', np.ones((*shape, 3), np.uint8))
    with pytest.raises(ValueError, match=r'colour\.png.* one channel'):
        load(sample(colours))


def test_labels_that_are_no_integers_are_named(tmp_path):
    path = write(tmp_path / 'a.tif', np.ones((8, 6), np.float32))
    with pytest.raises(ValueError, match=r"a\.tif' holds float32 numbers; expected integers"):
        LoadCheckedLabels(num_classes=5)(sample(path))


def test_labels_that_opencv_cannot_decode_are_named(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'not an image')
    load = LoadCheckedLabels(num_classes=5, imdecode_backend='cv2')
    with pytest.raises(ValueError, match=r"a\.png' cannot be decoded"):
        load(sample(tmp_path / 'a.png'))


def write_header(path, width, height):
    """A PNG of which there is a header and no pixel."""
    header = struct.pack('>4sIIBBBBB', b'IHDR', width, height, 8, 0, 0, 0, 0)
    content = b'\x89PNG\r\n\x1a\n'
    for chunk in (header, b'IDAT'):
        content += struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
    path.write_bytes(content)
    return str(path)


def test_huge_images_are_refused_before_their_pixels_are_read(tmp_path, monkeypatch):
    path = write_header(tmp_path / 'huge.png', 30000, 30000)
    monkeypatch.setattr(LoadImageFromFile, 'transform', lambda *_: pytest.fail('was read'))
    counts = r'has 900,000,000 pixels, at most 178,956,970 are accepted: cut it into tiles'
    with pytest.raises(ValueError, match=rf"^image '.*huge\.png' {counts}"):
        LoadCheckedImage()({'img_path': path})
    with pytest.raises(ValueError, match=rf"^label map '.*huge\.png' {counts}"):
        LoadCheckedLabels(num_classes=5)(sample(path))
    # Large, but not too large.
    path = write_header(tmp_path / 'large.png', 12000, 12000)
    with pytest.raises(pytest.fail.Exception), pytest.warns(Image.DecompressionBombWarning):
        LoadCheckedImage()({'img_path': path})


def test_stock_names_mean_ours_in_our_scope_and_nowhere_else():
    for name, ours in (
        ('LoadImageFromFile', LoadCheckedImage),
        ('LoadAnnotations', LoadCheckedLabels),
    ):
        options = {'num_classes': 5} if ours is LoadCheckedLabels else {}
        built = TRANSFORMS.build({'type': name, '_scope_': 'mita_seg', **options})
        assert type(built) is ours
        assert TRANSFORMS.get(name) is not ours
    # What is not ours is MMSegmentation's there too.
    built = TRANSFORMS.build({'type': 'PackSegInputs', '_scope_': 'mita_seg'})
    assert type(built) is PackSegInputs
