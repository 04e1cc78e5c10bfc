"""Images of different sizes in one block of memory, which moves between processes and devices."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class JoinedImages:
    """The images of a batch and their labels, one after the other.

    Its length is the number of images, and its elements are the images [C, H, W], views.

    Attributes:
        pixels: Of all images, each [H, W, C], flat; uint8.
        labels: Of all images, each [H, W], flat; uint8, or int16 for values of 16 bits, which torch
            counts with a sign.
        sizes: (H, W) of each image, pixels.
        channels: C.
    """

    pixels: Tensor
    labels: Tensor
    sizes: list[tuple[int, int]]
    channels: int

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self._image(each) for each in range(len(self))[index]]
        return self._image(range(len(self))[index])

    def _image(self, index: int) -> Tensor:
        height, width = self.sizes[index]
        start = sum(h * w for h, w in self.sizes[:index])
        pixels = self.pixels[start * self.channels :][: height * width * self.channels]
        return pixels.view(height, width, self.channels).permute(2, 0, 1)

    def pin_memory(self) -> 'JoinedImages':
        """A copy in memory that a GPU reads from; a loader with ``pin_memory=True`` calls it."""
        return replace(self, pixels=self.pixels.pin_memory(), labels=self.labels.pin_memory())

    def to(self, device: torch.device) -> 'JoinedImages':
        """On a device, in two transfers; from pinned memory they do not wait for it."""
        pixels, labels = (part.to(device, non_blocking=True) for part in (self.pixels, self.labels))
        return replace(self, pixels=pixels, labels=labels)


def join_images(
    images: Sequence[Tensor], labels: Sequence[Tensor], *, pinned: bool = False
) -> JoinedImages:
    """Join the images and labels of a batch.

    Args:
        images: [C, H, W] each, uint8, of any sizes; quickest as views of [H, W, C].
        labels: [H, W] or [1, H, W] each, integers of at most 16 bits.
        pinned: Put what is on the CPU into pinned memory, see :meth:`JoinedImages.pin_memory`.

    Raises:
        ValueError: The images differ in their channels.
    """
    channels = {image.shape[0] for image in images}
    if len(channels) > 1:
        raise ValueError(f'images of a batch have {sorted(channels)} channels; one is needed')
    small = all(each.dtype == torch.uint8 for each in labels)
    return JoinedImages(
        pixels=_join([image.permute(1, 2, 0) for image in images], images[0].dtype, pinned),
        labels=_join(labels, torch.uint8 if small else torch.int16, pinned),
        sizes=[(image.shape[1], image.shape[2]) for image in images],
        channels=channels.pop(),
    )


def _join(tensors: Sequence[Tensor], dtype: torch.dtype, pinned: bool) -> Tensor:
    if tensors[0].device.type != 'cpu':
        return torch.cat([tensor.reshape(-1) for tensor in tensors]).to(dtype)
    joined = torch.empty(sum(map(torch.numel, tensors)), dtype=dtype, pin_memory=pinned)
    # NumPy copies in this thread alone: PyTorch's threads would wait for those of the loader.
    place = joined.numpy()
    for tensor in tensors:
        place[: tensor.numel()].reshape(tensor.shape)[...] = tensor.numpy()
        place = place[tensor.numel() :]
    return joined
