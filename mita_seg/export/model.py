"""What is exported: a trained segmentor from pixels to scores or labels of all pixels."""

import torch
from mmengine.config import Config
from mmseg.models.segmentors.base import BaseSegmentor
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mita_seg.models.trained_model import build_trained


class WholeImage(nn.Module):
    """Pixels to scores, or to labels, in one forward pass of the whole image.

    The segmentor's own normalisation and enlarging to the image's size are part of it. Sliding
    windows are not: an image is one window.

    Args:
        segmentor: The trained segmentor, in eval mode.
        labels: Return the label of each pixel in place of the scores.
    """

    def __init__(self, segmentor: BaseSegmentor, *, labels: bool = False) -> None:
        super().__init__()
        self.segmentor = segmentor
        self.labels = labels

    def forward(self, images: Tensor) -> Tensor:
        """Segment.

        Args:
            images: [B, C, H, W], floating point, values 0 to 255; colours in the order that the
                segmentor's preprocessing turns them to.

        Returns:
            Scores [B, classes, H, W] before softmax (sigmoid of one class), or labels [B, H, W],
            uint8 (int32 for more than 256 classes).
        """
        scores = interpolate(
            self.segmentor(_normalise(self.segmentor, images), mode='tensor'),
            size=images.shape[2:],
            mode='bilinear',
            align_corners=self.segmentor.align_corners,
        )
        return _settle(self.segmentor, scores) if self.labels else scores


def expected_output(segmentor: BaseSegmentor, images: Tensor, labels: bool) -> Tensor:
    """What MMSegmentation's own inference makes of images, as :class:`WholeImage` returns it."""
    shape = tuple(images.shape[2:])
    metas = [{'img_shape': shape, 'ori_shape': shape, 'pad_shape': shape}] * len(images)
    scores = segmentor.encode_decode(_normalise(segmentor, images), metas)
    return _settle(segmentor, scores) if labels else scores


def _normalise(segmentor: BaseSegmentor, images: Tensor) -> Tensor:
    preprocessor = segmentor.data_preprocessor
    if not hasattr(preprocessor, 'mean'):
        return images
    return (images - preprocessor.mean) / preprocessor.std


def _settle(segmentor: BaseSegmentor, scores: Tensor) -> Tensor:
    """Labels [B, H, W] of scores [B, classes, H, W]."""
    classes = segmentor.out_channels
    if classes == 1:
        head = segmentor.decode_head
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        return (scores.squeeze(1).sigmoid() > head.threshold).to(torch.uint8)
    return scores.argmax(1).to(torch.uint8 if classes <= 256 else torch.int32)


def build_exportable(cfg: Config, checkpoint: str) -> BaseSegmentor:
    """Build the model of a config with the weights of a checkpoint, in eval mode, on the CPU.

    Args:
        cfg: The config; its backbone's pretrained weights are left out of it.
        checkpoint: File or address.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read safely, or does not fit the config; or the model is no
            segmentor with a backbone and a decode head.
    """
    model, _ = build_trained(cfg, checkpoint)
    if not hasattr(model, 'encode_decode') or not hasattr(model, 'backbone'):
        raise ValueError(
            f'model.type={cfg.model.get("type")!r} is no segmentor with a backbone and a decode '
            'head, which is what can be exported'
        )
    return model
