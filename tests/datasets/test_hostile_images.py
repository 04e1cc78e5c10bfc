"""Images and label maps of every kind are read as the documentation says, or refused by name."""

import resource
import time

import numpy as np
import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config
from PIL import Image

from mita_seg.datasets import LoadCheckedImage, LoadCheckedLabels, check_data
from support import hostile_images as hostile

KINDS, REFUSED = hostile.kinds(), hostile.refused()


def write(folder, name, data):
    (folder / name).write_bytes(data)
    return str(folder / name)


def load_image(path, **options):
    return LoadCheckedImage(**options)({'img_path': path})['img']


def load_labels(path, size=None, **options):
    sample = {'seg_map_path': path, 'reduce_zero_label': False, 'label_map': None, 'seg_fields': []}
    shape = {} if size is None else {'ori_shape': size}
    return LoadCheckedLabels(**{'num_classes': 254, **options})({**sample, **shape})['gt_seg_map']


@pytest.mark.parametrize('name', KINDS)
def test_images_of_every_kind_have_their_colours(tmp_path, name):
    data, colour = KINDS[name]
    path = write(tmp_path, name, data)
    pixels = load_image(path)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3
    assert np.abs(pixels.astype(int) - colour[::-1]).max() <= 2  # of JPEG
    with Image.open(path) as stored:
        assert pixels.shape[1::-1] == stored.size
    if name.startswith('grey-16'):
        words = "has more than 8 bits a channel .* imdecode_backend='pillow' cuts off: take 'cv2'"
        with pytest.raises(ValueError, match=words):
            load_image(path, imdecode_backend='pillow')
    else:
        other = load_image(path, imdecode_backend='pillow').astype(int)
        assert np.abs(other - colour[::-1]).max() <= 2


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('name', REFUSED)
def test_damaged_and_lying_images_are_refused_by_name_at_once(tmp_path, name):
    path = write(tmp_path, name, REFUSED[name])
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    for load in (load_image, load_labels):
        with pytest.raises(ValueError, match=name) as refusal:
            load(path)
        assert '\n' not in str(refusal.value)
    assert time.monotonic() - begin < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB


def test_a_jpeg_too_small_for_its_header_is_named(tmp_path):
    path = write(tmp_path, 'a.jpg', REFUSED['larger.jpg'])
    with pytest.raises(ValueError, match=r'bytes is no JPEG of 12000x8000 pixels, as its header'):
        load_image(path)
    # The least that a JPEG takes, of one colour.
    flat = hostile.encoded(Image.new('L', (4000, 3000)), 'JPEG', quality=1, optimize=True)
    assert load_image(write(tmp_path, 'flat.jpg', flat)).shape == (3000, 4000, 3)
    flat = hostile.encoded(Image.new('L', (4000, 3000)), 'JPEG', quality=1, progressive=True)
    assert load_image(write(tmp_path, 'flat.jpg', flat)).shape == (3000, 4000, 3)


LABELS = np.arange(96, dtype=np.uint8).reshape(8, 12) % 5
# Their values, or a part of the refusal.
LABEL_FILES = {
    'grey.png': (hostile.encoded(Image.fromarray(LABELS), 'PNG'), LABELS),
    'grey.bmp': (hostile.encoded(Image.fromarray(LABELS), 'BMP'), LABELS),
    'grey.tif': (hostile.encoded(Image.fromarray(LABELS), 'TIFF'), LABELS),
    'bits.png': (hostile.encoded(Image.fromarray(LABELS > 2), 'PNG'), LABELS > 2),
    'wide.png': (hostile.by_opencv(LABELS.astype(np.uint16), '.png'), LABELS),
    'wide.tif': (hostile.by_opencv(LABELS.astype(np.uint16), '.tif'), LABELS),
    'over.png': (hostile.by_opencv(LABELS.astype(np.uint16) * 257, '.png'), 'holds 257, 514'),
    'rgb.png': (hostile.encoded(hostile.plain(), 'PNG'), r'shape \(8, 12, 3\); expected one'),
    'alpha.png': (
        hostile.encoded(Image.fromarray(LABELS).convert('LA'), 'PNG'),
        r'shape \(8, 12, 2\); expected one channel',
    ),
    'cmyk.tif': (
        hostile.encoded(hostile.plain().convert('CMYK'), 'TIFF'),
        r'shape \(8, 12, 4\); expected one channel',
    ),
    'grey.jpg': (
        hostile.encoded(Image.fromarray(LABELS), 'JPEG', quality=100),
        'is a JPEG, which changes the values of classes: save it as PNG',
    ),
    'nibbles.png': (
        hostile.png(12, 8, depth=4, kind=0, data=(b'\0' + bytes(6)) * 8),
        'is a PNG of 4 bits of grey, which decoders stretch over 0 to 255: save it as PNG of 8',
    ),
    'frames.webp': (KINDS['frames.webp'][0], r'shape \(8, 12, 3\); expected one channel'),
}


def _palette(kind, **options):
    image = Image.fromarray(LABELS)
    image.putpalette([part for index in range(256) for part in (index, 255 - index, 7)])
    return hostile.encoded(image, kind, **options)


LABEL_FILES |= {
    'palette.png': (_palette('PNG'), LABELS),
    'palette-4-bits.png': (_palette('PNG', bits=4), LABELS),
    'palette.gif': (_palette('GIF', optimize=False), LABELS),
}


@pytest.mark.parametrize('name', LABEL_FILES)
def test_label_maps_of_every_kind_keep_their_values_or_are_refused(tmp_path, name):
    data, expected = LABEL_FILES[name]
    path = write(tmp_path, name, data)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=rf"^label map '.*{name}' .*{expected}"):
            load_labels(path)
    else:
        assert np.array_equal(load_labels(path), expected)


def config(root, loader, pipeline=None):
    load = [
        {'type': 'LoadImageFromFile', '_scope_': 'mita_seg'},
        {'type': 'LoadAnnotations', '_scope_': 'mita_seg', 'num_classes': 5},
    ]
    dataset = {
        'type': 'BaseSegDataset',
        'data_root': str(root),
        'data_prefix': {'img_path': 'images', 'seg_map_path': 'labels'},
        'img_suffix': '.png',
        'metainfo': {'classes': tuple('abcde'), 'palette': [[i, i, i] for i in range(5)]},
        'pipeline': load if pipeline is None else pipeline,
    }
    return Config({loader: {'dataset': dataset}})


@pytest.fixture
def root(tmp_path):
    """Three images and their label maps."""
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
        for index in range(3):
            Image.fromarray(LABELS).save(tmp_path / folder / f'{index}.png')
    return tmp_path


LOADERS = ['train_dataloader', 'val_dataloader', 'test_dataloader']


@pytest.mark.parametrize('loader', LOADERS)
@pytest.mark.parametrize(
    ('place', 'data', 'words'),
    [
        ('labels/1.png', b'', r"1 of 3 label maps are empty: '.*labels/1\.png'"),
        ('images/1.png', b'', r"1 of 3 images are empty: '.*images/1\.png'"),
        ('images/1.png', b'text', r"image '.*images/1\.png' cannot be decoded"),
        ('images/1.png', hostile.png(60000, 60000), r"images/1\.png' has 3,600,000,000 pixels"),
        ('labels/1.png', LABEL_FILES['rgb.png'][0], r"labels/1\.png' .*one channel of classes"),
        ('labels/1.png', LABEL_FILES['over.png'][0], r"labels/1\.png' holds 257"),
        ('labels/1.png', LABEL_FILES['grey.jpg'][0], r"labels/1\.png' is a JPEG"),
        (
            'labels/1.png',
            hostile.encoded(Image.fromarray(LABELS.T.copy()), 'PNG'),
            r"labels/1\.png' is 8x12 pixels, its image 12x8",
        ),
    ],
)
def test_bad_files_are_named_before_training(root, loader, place, data, words):
    check_data(config(root, loader))
    (root / place).write_bytes(data)
    with pytest.raises(ValueError, match=words):
        check_data(config(root, loader))


def test_stock_loading_is_left_to_itself(root):
    (root / 'images/1.png').write_bytes(b'text')
    stock = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations'}]
    check_data(config(root, 'train_dataloader', stock))


def test_pixels_of_16_bits_are_read_as_from_a_file(tmp_path, trained):
    from mita_seg import load_segmentor

    segmentor = load_segmentor(*trained, device='cpu')
    path = write(tmp_path, 'a.png', KINDS['grey-16.png'][0])
    with Image.open(path) as image:
        assert np.array_equal(segmentor.read(image), segmentor.read(path))
    with pytest.raises(ValueError, match="8 or 16 bits a channel, got 'F'"):
        segmentor.read(Image.new('F', (4, 4)))
