"""Training samples as they were read, joined to one block of memory for each batch.

What a process of the loader hands over costs by the tensor more than by the byte: a batch is one.
"""

import torch
from mmengine.registry import FUNCTIONS
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs
from mmseg.registry import TRANSFORMS
from mmseg.structures import SegDataSample

from mita_seg.augment import join_images


@TRANSFORMS.register_module()
class PackSegViews(PackSegInputs):
    """PackSegInputs that copies neither the image nor labels of 8 bits.

    The image [C, H, W] is a view of what was read, and its labels [1, H, W] stay uint8 in place of
    int64. For :class:`mita_seg.models.BatchSegDataPreProcessor`.

    Args:
        *args: As for PackSegInputs.
        **kwargs: As for PackSegInputs.
    """

    def transform(self, results):
        kept = dict(results)
        image, labels = kept.pop('img', None), results.get('gt_seg_map')
        small = labels is not None and labels.ndim == 2 and labels.dtype == 'uint8'
        if small:
            kept.pop('gt_seg_map')
        packed = super().transform(kept)
        if image is not None:
            image = torch.from_numpy(image)
            packed['inputs'] = image.unsqueeze(0) if image.ndim == 2 else image.permute(2, 0, 1)
        if small:
            labels = torch.from_numpy(labels).unsqueeze(0)
            packed['data_samples'].gt_sem_seg = PixelData(data=labels)
        return packed


@FUNCTIONS.register_module()
def join_samples(samples, pinned=False):
    """A ``collate_fn`` that joins the images and labels of a batch.

    Args:
        samples (Sequence[dict]): ``inputs``, an image [C, H, W], and ``data_samples``, its
            SegDataSample with labels [1, H, W].
        pinned (bool): Join them in pinned memory.

    Returns:
        dict: ``inputs``, a :class:`mita_seg.augment.JoinedImages`, and ``data_samples``, new
        SegDataSamples without labels.

    Raises:
        ValueError: The images differ in channels, lack labels, have labels of another size, or have
            other maps than labels.
    """
    images = [sample['inputs'] for sample in samples]
    labels = [_labels(sample['data_samples'], sample['inputs']) for sample in samples]
    return {
        'inputs': join_images(images, labels, pinned=pinned),
        'data_samples': [
            SegDataSample(metainfo=sample['data_samples'].metainfo) for sample in samples
        ],
    }


def _labels(sample, image):
    if 'gt_sem_seg' not in sample:
        raise ValueError(f'training needs labels, {sample.get("img_path")!r} has none')
    others = [name for name in sample.keys() if name != 'gt_sem_seg']  # noqa: SIM118
    if others:
        raise ValueError(
            f'BatchSegDataPreProcessor augments images and labels alone, but '
            f'{sample.get("img_path")!r} also has {", ".join(others)}; use SegDataPreProcessor and '
            'augmentation in the pipeline'
        )
    labels = sample.gt_sem_seg.data
    if labels.shape[-2:] != image.shape[-2:]:
        raise ValueError(
            f'labels must be as large as their image, got {tuple(labels.shape[-2:])} for '
            f'{sample.get("img_path")!r} of {tuple(image.shape[-2:])}'
        )
    return labels
