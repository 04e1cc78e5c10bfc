"""Pictures of predictions."""

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.structures import PixelData
from mmengine.visualization import Visualizer
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from PIL import ExifTags, Image

from mita_seg.engine import PaintPredictionsHook


def test_each_image_has_a_picture_of_its_pixels_as_stored(tmp_path):
    """Images of one name, stored turned by a quarter: 16 pixels wide, 8 high."""
    samples = []
    for town in ('a', 'b'):
        path = tmp_path / town / 'street.jpg'
        path.parent.mkdir()
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        Image.new('RGB', (16, 8), 'red').save(path, exif=exif)
        labels = PixelData(data=torch.zeros(1, 8, 16, dtype=torch.int64))
        samples.append(SegDataSample(metainfo={'img_path': str(path)}, pred_sem_seg=labels))

    visualizer = SegLocalVisualizer(
        name='paint_predictions',
        vis_backends=[{'type': 'LocalVisBackend'}],
        save_dir=str(tmp_path),
        alpha=0,
    )
    visualizer.dataset_meta = {'classes': ('road',), 'palette': [[0, 0, 255]]}
    Visualizer.get_instance('any')  # which a hook takes when it is made
    hook = PaintPredictionsHook(draw=True)
    hook._visualizer = visualizer
    for sample in samples:
        hook.after_test_iter(None, 0, None, [sample])

    pictures = sorted(tmp_path.rglob('*.png'))
    assert [picture.name for picture in pictures] == [
        'test_street.jpg_1.png',
        'test_street.jpg_2.png',
    ]
    for picture in map(Image.open, pictures):
        red, green, blue = picture.convert('RGB').getpixel((2, 6))
        assert picture.size[0] % 16 == 0 and red > 200 > 60 > max(green, blue)
