"""A trained model and images for it, without labels, one pass an image."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS

from mita_seg.checkpoint import load_checkpoint_safely
from mita_seg.cli import leave_out_pretrained
from mita_seg.datasets.label_need import find_label_loading
from mita_seg.matching import describe_mismatch


@dataclass
class Looker:
    """A model in eval mode, the pipeline for its images, and the names of its classes."""

    model: torch.nn.Module
    pipeline: Compose
    classes: list[str]
    longest_side: int

    def read(self, path):
        """Read an image as the model sees it.

        Args:
            path (str): The file.

        Returns:
            tuple[ndarray, Tensor]: What is shown, `[H, W, 3]` (RGB, uint8); and the input of the
            network, `[1, C, H', W']`, H' and W' beyond H and W where the model's preprocessor pads.

        Raises:
            FileNotFoundError, ValueError: There is no such image, or it cannot be decoded.
        """
        packed = self.pipeline({'img_path': path})
        image = _shrink(packed['inputs'], self.longest_side)
        data = {'inputs': [image], 'data_samples': [packed['data_samples']]}
        inputs = self.model.data_preprocessor(data, False)['inputs']
        return shown_image(image, inputs.shape[-2:]), inputs

    @torch.no_grad()
    def predict(self, inputs):
        """Pass the whole image through the network, whatever ``test_cfg`` says.

        Args:
            inputs (Tensor): From :meth:`read`.

        Returns:
            ndarray: The class of each patch, int64 `[h, w]`.
        """
        logits = self.model(inputs, mode='tensor')
        if logits.shape[1] == 1:
            return (logits[0, 0] > 0).long().cpu().numpy()
        return logits[0].argmax(0).cpu().numpy()


def shown_image(image, size):
    """An image of a pipeline as it is shown, with what a preprocessor pads as white.

    Args:
        image (Tensor): `[C, h, w]`, values 0 to 255, as MMSegmentation loads them: blue, green,
            red, then any others; or grey.
        size (tuple[int, int]): Height and width of the network's input.

    Returns:
        ndarray: uint8 `[H, W, 3]`, RGB.
    """
    shown = image[:3].flip(0) if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    below, right = (max(0, whole - part) for whole, part in zip(size, shown.shape[1:], strict=True))
    shown = F.pad(shown.float().clamp(0, 255), (0, right, 0, below), value=255)
    return shown.byte().permute(1, 2, 0).contiguous().cpu().numpy()


def load_looker(cfg, checkpoint, device, longest_side):
    """Build the model of a config, with a checkpoint's weights.

    Args:
        cfg (Config): With ``test_dataloader`` or ``test_pipeline``, for how images are loaded.
        checkpoint (str): Loaded without running code that it may hold.
        device (str): Where the model runs.
        longest_side (int): Images whose longer side has more pixels are shrunk to it.

    Returns:
        Looker: The model and what belongs to it.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The checkpoint is damaged, refused or does not fit, there is no such device, or
            the config has no pipeline.
    """
    loaded = load_checkpoint_safely(checkpoint)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    pipeline = _pipeline(cfg)
    leave_out_pretrained(cfg)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    try:
        model.load_state_dict(loaded.get('state_dict', loaded), strict=True)
    except RuntimeError as error:
        raise ValueError(describe_mismatch(checkpoint, error)) from error
    model.eval()  # apart: train() of stock backbones returns nothing
    try:
        model.to(device)
    except Exception as error:  # of torch, which has several for this
        reason = str(error).split('\n')[0]
        raise ValueError(f'device {device!r} cannot be used: {reason}') from error
    return Looker(model, pipeline, _class_names(model, loaded, cfg), longest_side)


def _pipeline(cfg):
    """The test pipeline without what loads labels."""
    dataset = _test_dataset(cfg)
    transforms = dataset.get('pipeline') or cfg.get('test_pipeline')
    if not transforms:
        raise ValueError('the config must have a test_dataloader or a test_pipeline, got neither')
    return Compose([each for each in transforms if not find_label_loading([each])])


def _test_dataset(cfg):
    """The innermost data set of ``test_dataloader``, or nothing."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while inner := (dataset.get('datasets') or [None])[0] or dataset.get('dataset'):
        dataset = inner
    return dataset


def _class_names(model, checkpoint, cfg):
    """Names of the classes: the checkpoint's, the data set's, or numbers."""
    meta = (checkpoint.get('meta') or {}).get('dataset_meta') or {}
    dataset = _test_dataset(cfg)
    kind = DATASETS.get(dataset.type) if isinstance(dataset.get('type'), str) else None
    names = (
        meta.get('classes')
        or (dataset.get('metainfo') or {}).get('classes')
        or getattr(kind, 'METAINFO', {}).get('classes')
        or ()
    )
    count = getattr(getattr(model, 'decode_head', None), 'num_classes', len(names))
    return [*map(str, names[:count]), *(f'class {i}' for i in range(len(names), count))]


def _shrink(image, longest_side):
    """An image [C, H, W] whose longer side is at most `longest_side`."""
    height, width = image.shape[1:]
    if max(height, width) <= longest_side:
        return image
    scale = longest_side / max(height, width)
    size = [max(1, round(side * scale)) for side in (height, width)]
    small = F.interpolate(image[None].float(), size=size, mode='bilinear', antialias=True)[0]
    return small.round().to(image.dtype) if not image.is_floating_point() else small
