"""Where each image of a batch is cut out, drawn at random on the CPU."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Windows:
    """A window of each image, in pixels of the image after it was scaled.

    Attributes:
        sizes: Height and width of the images, [B, 2], int64.
        scaled: Height and width after scaling, [B, 2], int64.
        corners: Top and left of the candidates for each window, [B, K, 2], int64.
        flipped: Whether the window is mirrored from left to right, [B], bool.
    """

    sizes: Tensor
    scaled: Tensor
    corners: Tensor
    flipped: Tensor

    def pack(self) -> Tensor:
        """All of it in one tensor, [B, 6 + 2 K], int64.

        Columns: where the image begins among the pixels of all images, its height and width, those
        after scaling, whether it is mirrored, and top and left of each candidate.
        """
        pixels = self.sizes.prod(1)
        return torch.cat(
            (
                (pixels.cumsum(0) - pixels)[:, None],
                self.sizes,
                self.scaled,
                self.flipped[:, None].long(),
                self.corners.flatten(1),
            ),
            dim=1,
        )


def draw_windows(
    sizes: Sequence[tuple[int, int]],
    window: tuple[int, int],
    scale: tuple[int, int] | None = None,
    ratio_range: tuple[float, float] = (0.5, 2.0),
    flip_prob: float = 0.5,
    candidates: int = 1,
    generator: Generator | None = None,
) -> Windows:
    """Draw what RandomResize, RandomCrop and RandomFlip draw, from the same distributions.

    Args:
        sizes: (height, width) of the images, pixels.
        window: (height, width) of the windows, pixels.
        scale: The image is scaled to the largest size within (long edge, short edge) times a random
            ratio, in either order, and keeps its shape; None for its own size.
        ratio_range: Least and largest ratio, drawn evenly for each image.
        flip_prob: Probability of mirroring an image from left to right.
        candidates: Corners drawn for each image, K.
        generator: Of the random numbers; torch's own by default.

    Returns:
        The windows, on the CPU.
    """
    low, high = ratio_range
    ratios = low + (high - low) * torch.rand(len(sizes), dtype=torch.float64, generator=generator)
    scaled = torch.tensor(
        [
            _scaled_size(size, scale or size, ratio)
            for size, ratio in zip(sizes, ratios.tolist(), strict=True)
        ]
    )
    choices = (scaled - torch.tensor(window)).clamp(min=0) + 1  # [B, 2]
    places = torch.rand(len(sizes), candidates, 2, dtype=torch.float64, generator=generator)
    return Windows(
        sizes=torch.tensor(sizes),
        scaled=scaled,
        corners=(places * choices.unsqueeze(1)).long(),
        flipped=torch.rand(len(sizes), generator=generator) < flip_prob,
    )


def _scaled_size(size: tuple[int, int], scale: tuple[int, int], ratio: float) -> tuple[int, int]:
    """Height and width of an image after scaling, rounded as MMCV rounds them."""
    long_edge, short_edge = int(max(scale) * ratio), int(min(scale) * ratio)
    factor = min(long_edge / max(size), short_edge / min(size))
    height, width = (max(int(edge * factor + 0.5), 1) for edge in size)
    return height, width
