"""Sliding-window inference that computes several windows at once."""

from itertools import product

import torch
from torch import Tensor


class WindowBatches:
    """For segmentors of MMSegmentation: ``mode='slide'`` with batches of windows.

    The stock class computes one window after the other, and pads the logits of each to the size of
    the image. Here ``test_cfg.window_batch`` windows, 4 by default, go through the model together;
    the logits are the same to rounding.
    """

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits of images by overlapping windows, which are averaged.

        Args:
            inputs: Images [B, C, H, W].
            batch_img_metas: Their meta information.

        Returns:
            Logits [B, out_channels, H, W].
        """
        height, width = inputs.shape[2:]
        (step_y, step_x), (crop_y, crop_x) = self.test_cfg.stride, self.test_cfg.crop_size
        crop_y, crop_x = min(crop_y, height), min(crop_x, width)
        places = list(product(_starts(height, crop_y, step_y), _starts(width, crop_x, step_x)))
        # A torch.Size tells the head that it is a window.
        window = torch.Size((crop_y, crop_x))
        metas = [{**meta, 'img_shape': window} for meta in batch_img_metas]
        total = inputs.new_zeros(len(inputs), self.out_channels, height, width)
        count = inputs.new_zeros(1, 1, height, width)
        number = self.test_cfg.get('window_batch', 4)
        for first in range(0, len(places), number):
            part = places[first : first + number]
            windows = torch.cat([inputs[..., y : y + crop_y, x : x + crop_x] for y, x in part])
            logits = self.encode_decode(windows, metas * len(part))
            for (y, x), of_window in zip(part, logits.split(len(inputs)), strict=True):
                total[..., y : y + crop_y, x : x + crop_x] += of_window
                count[..., y : y + crop_y, x : x + crop_x] += 1
        return total.div_(count)


def _starts(length: int, crop: int, step: int) -> list[int]:
    """Where windows begin: every `step` pixels, the last one at the end."""
    number = -(-(length - crop) // step) + 1
    return [min(i * step, length - crop) for i in range(number)]
