from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import ExifTags, Image

from mita_seg.comparison.single_run import save_samples


class OneImage(list):
    """A test set of one image."""

    metainfo: ClassVar = {'classes': ('a', 'b'), 'palette': [[0, 0, 0], [1, 1, 1]]}

    def get_data_info(self, index):
        return {'img_path': self[index]}


@pytest.mark.parametrize('shape', [(6, 8), (8, 6)])
def test_image_lies_under_its_prediction(tmp_path, shape):
    """Predicted as stored (LoadCheckedImage), or as the stock transform turns it."""
    path = str(tmp_path / 'a.png')
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(path, exif=exif)
    pixels = PixelData(data=torch.zeros(1, *shape, dtype=torch.int64))
    sample = SegDataSample(metainfo={'img_path': path}, gt_sem_seg=pixels, pred_sem_seg=pixels)
    model = SimpleNamespace(eval=lambda: None, test_step=lambda batch: [sample])
    loader = SimpleNamespace(dataset=OneImage([path]))
    save_samples(SimpleNamespace(test_dataloader=loader, model=model), tmp_path / 'out.npz')
    saved = np.load(tmp_path / 'out.npz')
    assert saved['image0'].shape == (*shape, 3)
