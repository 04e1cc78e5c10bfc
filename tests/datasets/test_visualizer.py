"""Predictions are drawn over the pixels that they are of."""

from types import SimpleNamespace

import mmcv
import numpy as np
import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.structures import PixelData
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from PIL import ExifTags, Image

from mita_seg.datasets import StoredImageVisualizer
from mita_seg.datasets.visualizer import as_stored

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def oriented(tmp_path):
    def write(orientation):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        path = tmp_path / f'{orientation}.png'
        Image.fromarray(PIXELS).save(path, exif=exif)
        return str(path)

    return write


@pytest.mark.parametrize('orientation', range(1, 9))
def test_an_image_that_was_read_again_is_turned_back(oriented, orientation):
    path = oriented(orientation)
    shown = mmcv.imread(path, channel_order='rgb')
    assert np.array_equal(shown, PIXELS) == (orientation == 1)
    assert np.array_equal(as_stored(shown, path), PIXELS)
    # That of a pipeline, as browse_dataset draws it.
    other = PIXELS[2:8, 3:9]
    assert as_stored(other, path) is other
    assert as_stored(shown, 's3://somewhere/a.png') is shown


@pytest.mark.parametrize('orientation', [3, 6])
def test_mmsegmentations_hook_draws_what_was_predicted(oriented, orientation, tmp_path):
    config = {'type': 'StoredImageVisualizer', 'vis_backends': [{'type': 'LocalVisBackend'}]}
    name = f'drawn{orientation}'
    config.update(name=name, save_dir=str(tmp_path / 'out'))
    visualizer = VISUALIZERS.build(config)
    assert isinstance(visualizer, StoredImageVisualizer)
    visualizer.dataset_meta = {'classes': ('a', 'b'), 'palette': [[0, 0, 0], [255, 0, 0]]}
    hook = SegVisualizationHook(draw=True, interval=1)
    hook._visualizer = visualizer
    pixels = PixelData(data=torch.zeros(1, 20, 30, dtype=torch.int64))
    sample = SegDataSample(metainfo={'img_path': oriented(orientation)}, pred_sem_seg=pixels)
    drawn = []
    visualizer.add_image = lambda name, image, step=0: drawn.append(image)
    hook.after_test_iter(SimpleNamespace(iter=0), 0, None, [sample])
    # The first class is black, drawn with an opacity of 0.8.
    assert drawn[0].shape == PIXELS.shape
    assert np.abs(drawn[0] - 0.2 * PIXELS).mean() < 5
