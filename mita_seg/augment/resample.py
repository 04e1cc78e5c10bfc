"""Random scale, crop and flip of a batch in one resampling."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def scale_crop_flip(
    images: Tensor,
    labels: Tensor,
    size: Sequence[int],
    ratio_range: Sequence[float] = (0.5, 2.0),
    flip_prob: float = 0.5,
    ignore_index: int = 255,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a window of `size` at a random place out of each image, scaled by a random ratio.

    What RandomResize, RandomCrop and RandomFlip do in turn: images are interpolated linearly,
    labels take their nearest neighbour. An axis that is shorter than the window after scaling lies
    at a random place in it.

    Args:
        images: [B, C, H, W], floating point.
        labels: [B, H, W], any integer type.
        size: The window (h, w), pixels.
        ratio_range: Least and largest ratio, drawn evenly for each image.
        flip_prob: Probability of mirroring an image from left to right.
        ignore_index: Label outside the image.

    Returns:
        Images [B, C, h, w], repeating their border where the window is outside of them; labels
        [B, h, w], int64; and where it is outside, [B, h, w], bool.
    """
    batch, device = len(images), images.device
    low, high = ratio_range
    ratio = low + (high - low) * torch.rand(batch, device=device)
    place_y, place_x = 2 * torch.rand(2, batch, device=device) - 1  # from one end to the other
    flipped = torch.rand(batch, device=device) < flip_prob

    # In coordinates that run from -1 to 1 across the image, the window is this long. Sizes stay
    # Python numbers: a tensor made of them would have to be copied to the device.
    length_y = size[0] / images.shape[-2] / ratio
    length_x = size[1] / images.shape[-1] / ratio
    shift_y, shift_x = (1 - length_y) * place_y, (1 - length_x) * place_x
    zero = torch.zeros_like(shift_x)
    matrix = torch.stack(
        (torch.where(flipped, -length_x, length_x), zero, shift_x, zero, length_y, shift_y), dim=1
    )
    grid = F.affine_grid(matrix.view(-1, 2, 3), (batch, 1, *size), align_corners=False)

    outside = (grid.abs() > 1).any(-1)
    grid = grid.to(images.dtype)
    images = F.grid_sample(images, grid, 'bilinear', 'border', align_corners=False)
    label_map = labels.unsqueeze(1).to(images.dtype)
    label_map = F.grid_sample(label_map, grid, 'nearest', 'border', align_corners=False)
    labels = label_map.squeeze(1).long().masked_fill(outside, ignore_index)
    return images, labels, outside
