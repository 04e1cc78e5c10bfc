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

    A training batch goes to the device in two transfers, of bytes and of 16-bit labels, and random
    scale, crop, flip and colours are drawn there for each image, in place of RandomResize,
    RandomCrop (without its ``cat_max_ratio``), RandomFlip and PhotoMetricDistortion in the loader's
    processes. Nothing in it waits for the device. Evaluation is that of the base class.

    Images of one channel are augmented as grey ones; with other channels than one or three only
    `colour_prob` of 0 is possible. Labels may have any value of 16 bits.

    Args:
        size (Sequence[int]): Window (height, width) of training, pixels.
        ratio_range (Sequence[float]): Least and largest ratio of the random scale.
        flip_prob (float): Probability of mirroring an image.
        colour_prob (float): Probability of each change of colour; 0 for none.
        mean (Sequence[float], optional): Mean of each channel, or of all; needs `std`.
        std (Sequence[float], optional): Standard deviation of each channel, or of all.
        bgr_to_rgb (bool): Turn the channels of colour images round.
        rgb_to_bgr (bool): The same.
        batch_augments (Callable, optional): Called with images and samples of a training batch,
            normalised, and returns both.
        **kwargs: Other arguments of SegDataPreProcessor (pad_val, seg_pad_val, test_cfg).

    Raises:
        TypeError: `batch_augments` cannot be called.
        ValueError: The images of a batch differ in size, have channels that colours cannot be
            changed of, lack labels, or have other maps than labels.
    """

    def __init__(
        self,
        size,
        ratio_range=(0.5, 2.0),
        flip_prob=0.5,
        colour_prob=0.5,
        *,
        mean=None,
        std=None,
        bgr_to_rgb=False,
        rgb_to_bgr=False,
        batch_augments=None,
        **kwargs,
    ):
        super().__init__(
            size=tuple(size),
            mean=mean,
            std=std,
            bgr_to_rgb=bgr_to_rgb,
            rgb_to_bgr=rgb_to_bgr,
            batch_augments=batch_augments,
            **kwargs,
        )
        if batch_augments is not None and not callable(batch_augments):
            raise TypeError(
                'batch_augments must be callable, with images and samples, or None, got '
                f'{batch_augments!r}'
            )
        # The base class keeps these under names that differ between MMSegmentation's releases.
        self.turns_channels = bgr_to_rgb or rgb_to_bgr
        self.normalises = mean is not None
        self.ratio_range = tuple(ratio_range)
        self.flip_prob = flip_prob
        self.colour_prob = colour_prob

    def forward(self, data: dict, training: bool = False) -> dict:
        """Move, augment and normalise a batch.

        Args:
            data: ``inputs``, a list of uint8 images [C, H, W], and ``data_samples``, whose label
                maps are [1, H, W].
            training: Augment; the base class does the rest otherwise.

        Returns:
            ``inputs``, float32 [B, C, h, w], and ``data_samples`` with label maps [1, h, w], int64.
        """
        if not training:
            return super().forward(data, training)
        samples = data['data_samples']
        images = self._to_device(data['inputs']).float()
        # 16 bits are a quarter of what the labels take as int64. Torch counts them with a sign.
        labels = self._to_device([_labels(sample).to(torch.int16) for sample in samples])
        labels = labels.int() & 0xFFFF
        if self.turns_channels and images.shape[1] == 3:
            images = images.flip(1)
        images, labels, outside = scale_crop_flip(
            images, labels.squeeze(1), self.size, self.ratio_range, self.flip_prob, self.seg_pad_val
        )
        if self.colour_prob:
            images = jitter_colours(images, prob=self.colour_prob)
        if self.normalises:
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
        if self.batch_augments is not None:
            images, augmented = self.batch_augments(images, augmented)
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
    others = [name for name in sample.keys() if name != 'gt_sem_seg']  # noqa: SIM118
    if others:
        raise ValueError(
            f'BatchSegDataPreProcessor augments images and labels alone, but '
            f'{sample.get("img_path")!r} also has {", ".join(others)}; use SegDataPreProcessor and '
            'augmentation in the pipeline'
        )
    return sample.gt_sem_seg.data
