"""Training batches that are augmented on the device of the model."""

import torch
from mmengine.structures import PixelData
from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mita_seg.augment import jitter_colours, scale_crop_flip


@MODELS.register_module()
class BatchSegDataPreProcessor(SegDataPreProcessor):
    """SegDataPreProcessor that augments whole training batches, for images of one size.

    A training batch goes to the device in two transfers, as bytes, and random scale, crop, flip and
    colours are drawn there for each image, in place of RandomResize, RandomCrop (without its
    ``cat_max_ratio``), RandomFlip and PhotoMetricDistortion in the loader's processes. Nothing in
    it waits for the device. Evaluation is that of the base class.

    Args:
        size (Sequence[int]): Window (height, width) of training, pixels.
        ratio_range (Sequence[float]): Least and largest ratio of the random scale.
        flip_prob (float): Probability of mirroring an image.
        colour_prob (float): Probability of each change of colour; 0 for none.
        **kwargs: Other arguments of SegDataPreProcessor (mean, std, bgr_to_rgb, pad_val,
            seg_pad_val, test_cfg).

    Raises:
        ValueError: The images of a batch differ in size, or lack labels.
    """

    def __init__(self, size, ratio_range=(0.5, 2.0), flip_prob=0.5, colour_prob=0.5, **kwargs):
        super().__init__(size=tuple(size), **kwargs)
        self.ratio_range = tuple(ratio_range)
        self.flip_prob = flip_prob
        self.colour_prob = colour_prob

    def forward(self, data: dict, training: bool = False) -> dict:
        """Move, augment and normalise a batch.

        Args:
            data: ``inputs``, a list of uint8 images [3, H, W], and ``data_samples``, whose label
                maps are [1, H, W].
            training: Augment; the base class does the rest otherwise.

        Returns:
            ``inputs``, float32 [B, 3, h, w], and ``data_samples`` with label maps [1, h, w], int64.
        """
        if not training:
            return super().forward(data, training)
        samples = data['data_samples']
        images = self._to_device(data['inputs']).float()
        # Bytes are an eighth of what the labels take as int64.
        labels = self._to_device([_labels(sample).to(torch.uint8) for sample in samples])
        if self._channel_conversion:
            images = images.flip(1)
        images, labels, outside = scale_crop_flip(
            images, labels.squeeze(1), self.size, self.ratio_range, self.flip_prob, self.seg_pad_val
        )
        if self.colour_prob:
            images = jitter_colours(images, prob=self.colour_prob)
        if self._enable_normalize:
            images = (images - self.mean) / self.std
        images = images.masked_fill(outside.unsqueeze(1), self.pad_val)
        # New samples: a data set may keep the ones it handed out.
        shape = {'img_shape': self.size, 'pad_shape': self.size}
        augmented = [
            SegDataSample(
                metainfo={**sample.metainfo, **shape}, gt_sem_seg=PixelData(data=label.unsqueeze(0))
            )
            for sample, label in zip(samples, labels, strict=True)
        ]
        return {'inputs': images, 'data_samples': augmented}

    def _to_device(self, tensors: list[Tensor]) -> Tensor:
        """One transfer from pinned memory, which does not wait for the device."""
        shapes = {tuple(tensor.shape) for tensor in tensors}
        if len(shapes) > 1:
            raise ValueError(
                f'{type(self).__name__} needs images of one size, got {sorted(shapes)}; use '
                'SegDataPreProcessor and augmentation in the pipeline for images of several sizes'
            )
        pinned = self.device.type == 'cuda' and tensors[0].device.type == 'cpu'
        stacked = torch.empty(
            (len(tensors), *tensors[0].shape),
            dtype=tensors[0].dtype,
            device=tensors[0].device,
            pin_memory=pinned,
        )
        return torch.stack(tensors, out=stacked).to(self.device, non_blocking=True)


def _labels(sample: SegDataSample) -> Tensor:
    if 'gt_sem_seg' not in sample:
        raise ValueError(f'training needs labels, {sample.get("img_path")!r} has none')
    return sample.gt_sem_seg.data
