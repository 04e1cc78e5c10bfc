"""Training batches that are augmented on the device of the model."""

import functools
from collections.abc import Callable

import torch
from mmengine.dist import get_rank
from mmengine.structures import PixelData
from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from mita_seg.augment import (
    JoinedImages,
    change_colours,
    draw_colours,
    draw_windows,
    scale_crop_flip,
)
from mita_seg.datasets import join_samples

from .compiling import warn_not_compiled

# As RandomCrop: the last one drawn is taken where ten have been refused.
_WINDOWS_TRIED = 10


@MODELS.register_module()
class BatchSegDataPreProcessor(SegDataPreProcessor):
    """SegDataPreProcessor that augments whole training batches on the device of the model.

    The loader's processes only read the images, of any sizes, and join a batch to one block of
    memory, with ``dict(type='PackSegViews')`` in place of PackSegInputs and
    ``collate_fn=dict(type='join_samples')``; else it is joined here. It goes to the device in one
    transfer of bytes and one of labels, and is scaled, cropped, flipped and changed
    in colour there, by the rules and with the distributions of RandomResize, RandomCrop, RandomFlip
    and PhotoMetricDistortion. Nothing in it waits for the device. Evaluation is that of the base
    class. Random numbers are drawn on the CPU, from PyTorch's generator; processes of a distributed
    training draw different ones.

    Images of one channel are augmented as grey ones; with other channels than one or three only
    `colour_prob` of 0 is possible. Labels may have any value of 16 bits.

    Args:
        size (Sequence[int]): Window (height, width) of training, pixels.
        ratio_range (Sequence[float]): Least and largest ratio of the random scale.
        flip_prob (float): Probability of mirroring an image.
        colour_prob (float): Probability of each change of colour; 0 for none.
        scale (Sequence[int], optional): Images are scaled to the largest size within
            (long edge, short edge) times the random ratio; to their own size times it by default.
        cat_max_ratio (float): Largest share that one label should have of a window; ten windows are
            tried for each image. 1 accepts all.
        mean (Sequence[float], optional): Mean of each channel, or of all; needs `std`.
        std (Sequence[float], optional): Standard deviation of each channel, or of all.
        bgr_to_rgb (bool): Turn the channels of colour images round.
        rgb_to_bgr (bool): The same.
        batch_augments (Callable, optional): Called with images and samples of a training batch,
            normalised, and returns both.
        compiled (bool, optional): Augment by a program that ``torch.compile`` makes in the first
            iteration; by default on CUDA devices, if it can.
        **kwargs: Other arguments of SegDataPreProcessor (pad_val, seg_pad_val, test_cfg).

    Raises:
        TypeError: `batch_augments` cannot be called.
        ValueError: A setting is not accepted; or the images of a batch differ in channels, have
            channels that colours cannot be changed of, lack labels, have labels of another size, or
            have other maps than labels.
    """

    def __init__(
        self,
        size,
        ratio_range=(0.5, 2.0),
        flip_prob=0.5,
        colour_prob=0.5,
        *,
        scale=None,
        cat_max_ratio=1.0,
        mean=None,
        std=None,
        bgr_to_rgb=False,
        rgb_to_bgr=False,
        batch_augments=None,
        compiled=None,
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
        if scale is not None and (len(scale) != 2 or min(scale) < 1):
            raise ValueError(f'scale must be (long edge, short edge) in pixels, got {scale!r}')
        if not 0 < cat_max_ratio <= 1:
            raise ValueError(f'cat_max_ratio must be above 0 and at most 1, got {cat_max_ratio!r}')
        # The base class keeps these under names that differ between MMSegmentation's releases.
        self.turns_channels = bgr_to_rgb or rgb_to_bgr
        self.normalises = mean is not None
        self.ratio_range = tuple(ratio_range)
        self.flip_prob = flip_prob
        self.colour_prob = colour_prob
        self.scale = None if scale is None else tuple(scale)
        self.cat_max_ratio = cat_max_ratio
        self.compiled = compiled

    def forward(self, data: dict, training: bool = False) -> dict:
        """Move, augment and normalise a batch.

        Args:
            data: ``inputs``, uint8 images [C, H, W] and ``data_samples``, whose label maps are
                [1, H, W]; or what :func:`mita_seg.datasets.join_samples` made of them.
            training: Augment; the base class does the rest otherwise.

        Returns:
            ``inputs``, float32 [B, C, h, w], and ``data_samples`` with label maps [1, h, w], int64.
        """
        if not training:
            return super().forward(data, training)
        if not isinstance(data['inputs'], JoinedImages):
            pairs = zip(data['inputs'], data['data_samples'], strict=True)
            data = join_samples(
                [{'inputs': image, 'data_samples': sample} for image, sample in pairs],
                pinned=self.device.type == 'cuda',
            )
        generator = _new_generator()
        windows = draw_windows(
            data['inputs'].sizes,
            self.size,
            self.scale,
            self.ratio_range,
            self.flip_prob,
            _WINDOWS_TRIED + 1 if self.cat_max_ratio < 1 else 1,
            generator,
        )
        images = data['inputs'].to(self.device)
        colours = None
        if self.colour_prob:
            colours = draw_colours(len(windows.sizes), prob=self.colour_prob, generator=generator)
            colours = self._to_device(colours)
        # Where the labels begin in their memory would be a constant of the compiled program.
        pixels, labels = images.pixels, images.labels.clone()
        # Batches differ in nothing but these sizes.
        torch._dynamo.maybe_mark_dynamic(pixels, 0)
        torch._dynamo.maybe_mark_dynamic(labels, 0)
        inputs, labels = self._augment(
            pixels,
            labels,
            images.channels,
            self._to_device(windows.pack()),
            colours,
        )
        # New samples: a data set may keep the ones it handed out.
        shape = {'img_shape': self.size, 'pad_shape': self.size}
        augmented = [
            SegDataSample(
                metainfo={**sample.metainfo, **shape}, gt_sem_seg=PixelData(data=label.unsqueeze(0))
            )
            for sample, label in zip(data['data_samples'], labels, strict=True)
        ]
        if self.batch_augments is not None:
            inputs, augmented = self.batch_augments(inputs, augmented)
        return {'inputs': inputs, 'data_samples': augmented}

    def _augment(self, *args) -> tuple[Tensor, Tensor]:
        if self.compiled is False or (self.compiled is None and self.device.type != 'cuda'):
            return _augment(self, *args)
        try:
            return _compiled_augment()(self, *args)
        except TorchDynamoException as error:  # of which those of the compilers behind it are
            if self.compiled:
                raise
            self.compiled = False
            warn_not_compiled('Images are augmented without torch.compile', error)
        return _augment(self, *args)

    def _to_device(self, tensor: Tensor) -> Tensor:
        """Without a wait."""
        tensor = tensor.pin_memory() if self.device.type == 'cuda' else tensor
        return tensor.to(self.device, non_blocking=True)


def _augment(
    preprocessor: BatchSegDataPreProcessor,
    pixels: Tensor,
    labels: Tensor,
    channels: int,
    windows: Tensor,
    colours: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Augmented and normalised images [B, C, h, w] and their labels [B, h, w]."""
    images, labels, outside = scale_crop_flip(
        pixels,
        labels,
        channels,
        windows,
        preprocessor.size,
        ignore_index=preprocessor.seg_pad_val,
        cat_max_ratio=preprocessor.cat_max_ratio,
    )
    if preprocessor.turns_channels and channels == 3:
        images = images.flip(1)
    if colours is not None:
        images = change_colours(images, colours)
    if preprocessor.normalises:
        images = (images - preprocessor.mean) / preprocessor.std
    return images.masked_fill(outside.unsqueeze(1), preprocessor.pad_val), labels


@functools.cache
def _compiled_augment() -> Callable:
    # The two hundred operations of it take longer to launch than to run. One program serves images
    # of all sizes; another number of images, or size of windows, is another program.
    return torch.compile(_augment, dynamic=False)


def _new_generator() -> torch.Generator:
    """A generator of this batch and of this process of a distributed training."""
    (seed,) = torch.randint(2**62, (1,)).tolist()
    return torch.Generator().manual_seed(seed + get_rank())
