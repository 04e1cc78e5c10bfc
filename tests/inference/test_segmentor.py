"""`load_segmentor`: what comes out for which image, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.registry import init_default_scope
from mmseg.apis import inference_model, init_model
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS
from PIL import ExifTags, Image

from mita_seg import load_segmentor
from mita_seg.inference.classes import find_classes
from mita_seg.inference.windows import batch_windows
from support.user_config import write_user_config

SLIDE = {'model.test_cfg': {'mode': 'slide', 'crop_size': (64, 64), 'stride': (40, 40)}}


@pytest.fixture(scope='module')
def segmentor(trained):
    return load_segmentor(*trained, device='cpu')


@pytest.fixture(scope='module')
def image(shapes_root):
    return str(min((shapes_root / 'images/training').iterdir()))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_import_of_the_package_stays_cheap():
    script = """
import sys, mita_seg
assert 'load_segmentor' in dir(mita_seg)
heavy = {'torch', 'mmengine', 'mmcv', 'mmseg', 'numpy', 'cv2'} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, '-c', script], check=True)


def test_path_array_and_picture_give_what_mmsegmentation_gives(trained, segmentor, image):
    expected = inference_model(init_model(*trained, device='cpu'), image)
    expected = expected.pred_sem_seg.data.squeeze(0).numpy()
    assert len(np.unique(expected)) > 1
    pixels = segmentor.read(image)
    maps = segmentor([image, pixels, Image.open(image)])
    for labels in [*maps, segmentor(image)]:
        assert labels.dtype == np.uint8 and np.array_equal(labels, expected)
    assert segmentor.classes[0] == 'sky' and segmentor.palette.shape == (7, 3)
    assert segmentor.first_value == 1


def test_images_of_several_sizes_come_back_in_order_and_size(segmentor):
    images = [noise(64, 64, 1), noise(64, 64, 2), noise(40, 72), noise(64, 64, 3), noise(1, 1)]
    together = segmentor([*images, images[2][..., 0]])
    assert [labels.shape for labels in together[:5]] == [each.shape[:2] for each in images]
    for labels, each in zip(together, images, strict=False):
        assert np.array_equal(labels, segmentor(each))
    assert together[5].shape == (40, 72)


@pytest.mark.slow
@pytest.mark.parametrize('tta', [False, True])
def test_sliding_windows_in_batches_give_the_same_labels(trained, tta):
    images = [noise(150, 101), noise(150, 101, 1), noise(30, 200)]
    one, many = (
        load_segmentor(*trained, 'cpu', tta=tta, batch_size=size, cfg_options=SLIDE)
        for size in (1, 7)
    )
    for alone, batched in zip(one(images), many(images), strict=True):
        assert len(np.unique(alone)) > 1 and (alone == batched).mean() > 0.999


def test_sliding_windows_in_batches_give_the_stock_logits(trained):
    model = load_segmentor(*trained, 'cpu', batch_size=5, cfg_options=SLIDE).model
    passes = []
    model.backbone.register_forward_hook(lambda module, args, out: passes.append(len(args[0])))
    inputs = torch.randn(2, 3, 150, 101)
    metas = [{'img_shape': (150, 101), 'ori_shape': (150, 101)} for _ in inputs]
    with torch.no_grad():
        logits = model.inference(inputs, metas)
        assert passes == [5, 5, 5, 1]  # 4x2 windows of each
        stock = EncoderDecoder.slide_inference(model, inputs, metas)
    torch.testing.assert_close(logits, stock, rtol=1e-5, atol=1e-5)


def test_a_sliding_inference_of_its_own_is_left_alone(segmentor):
    class Other(EncoderDecoder):
        def slide_inference(self, inputs, batch_img_metas):
            raise NotImplementedError

    model = Other.__new__(Other)
    torch.nn.Module.__init__(model)
    model.test_cfg = SLIDE['model.test_cfg']
    assert not batch_windows(model, 4) and 'slide_inference' not in vars(model)
    assert not batch_windows(segmentor.model, 4)  # it takes whole images


def test_tta_averages_scales_and_flips(trained):
    flipped = load_segmentor(*trained, 'cpu', tta=True)
    image = noise(64, 64)
    # The average over an image and its mirror image is that of the mirror image, mirrored.
    assert (flipped(image) == flipped(image[:, ::-1])[:, ::-1]).mean() > 0.99


def test_pixels_are_read_as_stored(segmentor, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(noise(64, 40)).save(tmp_path / 'turned.png', exif=exif)
    assert segmentor(tmp_path / 'turned.png').shape == (64, 40)


def test_config_with_stock_loading(shapes_root, tmp_path, monkeypatch, image):
    monkeypatch.syspath_prepend(tmp_path)
    config = write_user_config(tmp_path, shapes_root)
    init_default_scope('mmseg')
    from mmengine.config import Config

    model = MODELS.build(Config.fromfile(config).model)
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    segmentor = load_segmentor(config, tmp_path / 'weights.pth', 'cpu')
    assert segmentor(image).shape == (64, 64)
    # Nothing of it is in the checkpoint: the config's data set says it.
    assert segmentor.classes == tuple('abcdefg') and segmentor.first_value == 1
    with pytest.raises(FileNotFoundError, match=r"image 'gone.jpg' does not exist"):
        segmentor('gone.jpg')


def test_classes_that_nobody_names():
    class Model:
        num_classes = 1  # one channel

    classes = find_classes(Model, {'CLASSES': ['road']}, {})
    assert classes.names == ('road', 'class 1') and classes.first_value == 0
    assert len(np.unique(classes.palette, axis=0)) == 2
    Model.num_classes = 300
    assert len(np.unique(find_classes(Model, {}, {}).palette, axis=0)) == 300


@pytest.mark.parametrize(
    'wrong, error, words',
    [
        ({'device': 'gpu'}, ValueError, "device 'gpu' cannot be used"),
        ({'batch_size': 0}, ValueError, 'batch_size must be at least 1, got 0'),
        ({'cfg_options': {'tta_pipeline': []}, 'tta': True}, ValueError, 'no tta_pipeline'),
        ({'config': 'gone.py'}, FileNotFoundError, "config 'gone.py' does not exist"),
        ({'checkpoint': 'gone.pth'}, FileNotFoundError, "checkpoint 'gone.pth' does not exist"),
        ({'cfg_options': {'model.backbone.embed_dims': 96}}, ValueError, 'does not fit the config'),
    ],
)
def test_what_is_refused(trained, wrong, error, words):
    arguments = {'config': trained[0], 'checkpoint': trained[1], **wrong}
    with pytest.raises(error, match=words):
        load_segmentor(**arguments)


def test_another_attention_than_in_training_is_warned_of(trained, tmp_path):
    checkpoint = torch.load(trained[1])
    full = "backbone=dict(type='MiTAVisionTransformer', attn_cfg=dict(type='FullAttention'))"
    checkpoint['meta']['cfg'] = f'model = dict({full})'
    torch.save(checkpoint, tmp_path / 'full.pth')
    with pytest.warns(UserWarning, match='trained with another attention'):
        load_segmentor(trained[0], tmp_path / 'full.pth', 'cpu')


def test_images_that_are_none(segmentor):
    for wrong, error in ((3, TypeError), (np.zeros((4, 4, 3)), ValueError)):
        with pytest.raises(error, match='an image must be'):
            segmentor(wrong)
