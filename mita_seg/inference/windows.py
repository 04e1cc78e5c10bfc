"""Sliding windows, several in one pass."""

from functools import partial

import torch
from mmseg.models import EncoderDecoder
from torch import Tensor


def window_boxes(size, crop, stride):
    """The windows of MMSegmentation's sliding inference, in its order.

    Args:
        size (Sequence[int]): Height and width of the image, pixels.
        crop (Sequence[int]): Those of a window.
        stride (Sequence[int]): From one window to the next.

    Returns:
        list[tuple[slice, slice]]: Rows and columns of each; all of one size.
    """
    rows, columns = (_spans(*axis) for axis in zip(size, crop, stride, strict=True))
    return [(row, column) for row in rows for column in columns]


def batch_windows(model, batch_size):
    """Let a model predict several sliding windows at a time, in place.

    The windows are those of ``EncoderDecoder``, and so is the order in which they are added up: the
    logits are equal but for the rounding of products of another batch size. Models with a sliding
    inference of their own, or none, are left alone.

    Args:
        model (BaseSegmentor): The model.
        batch_size (int): Windows in a pass.

    Returns:
        bool: Whether the model slides a window in this way.
    """
    mode = (getattr(model, 'test_cfg', None) or {}).get('mode')
    if mode != 'slide' or getattr(type(model), 'slide_inference', None) is not _STOCK:
        return False
    model.slide_inference = partial(_slide, model, batch_size)
    return True


_STOCK = EncoderDecoder.slide_inference


def _slide(model, batch_size: int, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
    """Logits [B, K, H, W] of images [B, C, H, W]."""
    boxes = window_boxes(inputs.shape[-2:], model.test_cfg.crop_size, model.test_cfg.stride)
    places = [(image, box) for box in boxes for image in range(len(inputs))]
    logits = inputs.new_zeros((len(inputs), model.out_channels, *inputs.shape[-2:]))
    counts = inputs.new_zeros(inputs.shape[-2:])
    for rows, columns in boxes:
        counts[rows, columns] += 1
    for start in range(0, len(places), batch_size):
        some = places[start : start + batch_size]
        crops = torch.stack([inputs[image, :, rows, columns] for image, (rows, columns) in some])
        # The heads enlarge their logits to a shape of this type.
        metas = [{**batch_img_metas[image], 'img_shape': crops.shape[2:]} for image, _ in some]
        parts = model.encode_decode(crops, metas)
        for (image, (rows, columns)), part in zip(some, parts, strict=True):
            logits[image, :, rows, columns] += part
    return logits / counts


def _spans(size, crop, stride):
    count = max(size - crop + stride - 1, 0) // stride + 1
    ends = [min(index * stride + crop, size) for index in range(count)]
    return [slice(max(end - crop, 0), end) for end in ends]
