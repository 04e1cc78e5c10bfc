"""Images of different sizes in one block of memory, which moves between processes and devices."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_ALIGNMENT = 16  # bytes


@dataclass(frozen=True)
class JoinedImages:
    """The images of a batch and their labels, one after the other, in one tensor.

    Its length is the number of images, and its elements are the images [C, H, W], views.

    Attributes:
        memory: The bytes of `pixels`, then those of `labels`; uint8.
        sizes: (H, W) of each image, pixels.
        channels: C.
        dtype: Of the pixels.
        label_dtype: Of the labels.
    """

    memory: Tensor
    sizes: list[tuple[int, int]]
    channels: int
    dtype: torch.dtype
    label_dtype: torch.dtype

    @property
    def pixels(self) -> Tensor:
        """Of all images, each [H, W, C], flat; a view."""
        size = _num_pixels(self.sizes) * self.channels * self.dtype.itemsize
        return self.memory[:size].view(self.dtype)

    @property
    def labels(self) -> Tensor:
        """Of all images, each [H, W], flat; a view."""
        size = _num_pixels(self.sizes) * self.label_dtype.itemsize
        return self.memory[self.memory.numel() - size :].view(self.label_dtype)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self._image(each) for each in range(len(self))[index]]
        return self._image(range(len(self))[index])

    def _image(self, index: int) -> Tensor:
        height, width = self.sizes[index]
        start = _num_pixels(self.sizes[:index])
        pixels = self.pixels[start * self.channels :][: height * width * self.channels]
        return pixels.view(height, width, self.channels).permute(2, 0, 1)

    def pin_memory(self) -> 'JoinedImages':
        """A copy in memory that a GPU reads from; a loader with ``pin_memory=True`` calls it."""
        return replace(self, memory=self.memory.pin_memory())

    def to(self, device: torch.device) -> 'JoinedImages':
        """On a device, in one transfer; from pinned memory it does not wait for it."""
        return replace(self, memory=self.memory.to(device, non_blocking=True))


def join_images(
    images: Sequence[Tensor], labels: Sequence[Tensor], *, pinned: bool = False
) -> JoinedImages:
    """Join the images and labels of a batch.

    Args:
        images: [C, H, W] each, uint8, of any sizes; quickest as views of [H, W, C].
        labels: [H, W] or [1, H, W] each, integers of at most 16 bits. They are uint8 in the batch,
            or int16 if any has more bits, which torch counts with a sign.
        pinned: Put what is on the CPU into pinned memory, see :meth:`JoinedImages.pin_memory`.

    Raises:
        ValueError: The images differ in their channels.
    """
    channels = {image.shape[0] for image in images}
    if len(channels) > 1:
        raise ValueError(f'images of a batch have {sorted(channels)} channels; one is needed')
    small = all(each.dtype == torch.uint8 for each in labels)
    dtype, label_dtype = images[0].dtype, torch.uint8 if small else torch.int16
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    device = images[0].device
    (channel_count,) = channels
    pixel_bytes = _num_pixels(sizes) * channel_count * dtype.itemsize
    label_bytes = _num_pixels(sizes) * label_dtype.itemsize
    joined = JoinedImages(
        memory=torch.empty(
            -(pixel_bytes // -_ALIGNMENT) * _ALIGNMENT + label_bytes,
            dtype=torch.uint8,
            device=device,
            pin_memory=pinned and device.type == 'cpu',
        ),
        sizes=sizes,
        channels=channel_count,
        dtype=dtype,
        label_dtype=label_dtype,
    )
    _fill(joined.pixels, [image.permute(1, 2, 0) for image in images])
    _fill(joined.labels, labels)
    return joined


def _num_pixels(sizes: Sequence[tuple[int, int]]) -> int:
    return sum(height * width for height, width in sizes)


def _fill(place: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy the tensors one after the other."""
    for tensor, part in zip(tensors, place.split([each.numel() for each in tensors]), strict=True):
        if place.device.type == 'cpu':
            # NumPy copies in this thread alone: PyTorch's would wait for those of the loader.
            part.numpy().reshape(tensor.shape)[...] = tensor.numpy()
        else:
            part.view(tensor.shape).copy_(tensor)
