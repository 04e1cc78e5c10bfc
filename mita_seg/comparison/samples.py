"""The few held-out images whose predictions are drawn."""

import numpy as np
import torch
from mmengine.dataset import pseudo_collate

from mita_seg.utils.files import replacing

COUNT = 4


def save_samples(runner, path):
    """Predict some evenly spread test images and keep all that a picture of them needs.

    Args:
        runner (Runner): A runner with a trained model and a test data loader.
        path (str | os.PathLike): The ``.npz`` file: ``image{i}`` `[h, w, 3]` (RGB, uint8),
            ``label{i}`` and ``prediction{i}`` `[h, w]` (uint8; 255 = not labelled), ``names``,
            ``classes`` `[K]` and ``palette`` `[K, 3]`.
    """
    from mmcv import imread

    dataset = runner.test_dataloader.dataset
    indices = np.unique(np.linspace(0, len(dataset) - 1, COUNT).round().astype(int)).tolist()
    arrays = {
        'names': np.array([dataset.get_data_info(i)['img_path'] for i in indices]),
        'classes': np.array(dataset.metainfo['classes']),
        'palette': np.array(dataset.metainfo['palette'], dtype=np.uint8),
    }
    runner.model.eval()
    for position, index in enumerate(indices):
        with torch.no_grad():
            sample = runner.model.test_step(pseudo_collate([dataset[index]]))[0]
        # With OpenCV, whose channels run blue, green, red; as LoadCheckedImage reads it, or else
        # turned by its EXIF orientation as LoadImageFromFile does.
        image = imread(sample.img_path, 'color_ignore_orientation')
        if image.shape[:2] != sample.pred_sem_seg.shape:
            image = imread(sample.img_path)
        arrays[f'image{position}'] = image[..., ::-1]
        arrays[f'label{position}'] = _pixels(sample.gt_sem_seg)
        arrays[f'prediction{position}'] = _pixels(sample.pred_sem_seg)
    with replacing(path, 'wb') as file:
        np.savez_compressed(file, **arrays)


def _pixels(segmentation):
    return segmentation.data.squeeze(0).cpu().numpy().astype(np.uint8)
