"""Windows of a batch of images of different sizes: scaled, cut out and flipped in one go."""

import torch
from torch import Tensor

# One pixel in so many, along each axis, is looked at to judge how varied a window is.
_STEP = 4
_LABELS = 2**16


def scale_crop_flip(
    pixels: Tensor,
    labels: Tensor,
    channels: int,
    windows: Tensor,
    size: tuple[int, int],
    *,
    ignore_index: int = 255,
    cat_max_ratio: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut its window out of each image, as Resize, RandomCrop and RandomFlip do in turn.

    Pixels are interpolated linearly and labels take their nearest neighbour, both as OpenCV does
    it, up to one level of 255. A scaled image that is smaller than the window lies at its top left.
    Nothing waits for the device.

    Args:
        pixels: Of all images, as in :class:`JoinedImages`.
        labels: Of all images, likewise.
        channels: Of an image, C.
        windows: From :meth:`Windows.pack`, on the device of the pixels. The first candidate is
            taken that `cat_max_ratio` accepts, and the last one if none is.
        size: Height and width of the windows, pixels.
        ignore_index: Label outside the image.
        cat_max_ratio: Largest share that one label may have of the labelled pixels of a candidate,
            judged on one pixel in 16; 1 accepts all.

    Returns:
        Images [B, C, h, w], float32, of whole numbers, with any values outside the image; labels
        [B, h, w], int64; and what is outside, [B, h, w], bool.
    """
    start, height, width, scaled_height, scaled_width, flipped = windows[:, :6, None].unbind(1)
    corners = windows[:, 6:].unflatten(1, (-1, 2))  # [B, K, 2]
    corner = corners[:, 0]
    if corners.shape[1] > 1:
        # One dimension more, of the candidates.
        start_each, height_each, width_each, scaled_height_each, scaled_width_each = (
            part.unsqueeze(1) for part in (start, height, width, scaled_height, scaled_width)
        )
        corner = _first_varied(
            labels,
            start_each,
            width_each,
            _Axis(height_each, scaled_height_each, size[0]),
            _Axis(width_each, scaled_width_each, size[1]),
            corners,
            ignore_index,
            cat_max_ratio,
        )
    rows = _Axis(height, scaled_height, size[0])
    columns = _Axis(width, scaled_width, size[1])
    y, outside_y = rows.places(corner[:, :1])  # [B, h]
    x, outside_x = columns.places(corner[:, 1:], flipped.bool())
    outside = outside_y[:, :, None] | outside_x[:, None, :]

    channel = torch.arange(channels, device=pixels.device).view(1, -1, 1, 1)
    top, bottom, along_y = (part[:, None, :, None] for part in rows.linear(y))
    left, right, along_x = (part[:, None, None, :] for part in columns.linear(x))
    upper, lower = (
        start[..., None, None] + line * width[..., None, None] for line in (top, bottom)
    )

    def take(place: Tensor) -> Tensor:
        return pixels.take(place * channels + channel).float()

    cut = torch.lerp(
        torch.lerp(take(upper + left), take(upper + right), along_x),
        torch.lerp(take(lower + left), take(lower + right), along_x),
        along_y,
    )
    line = start[..., None] + rows.nearest(y)[:, :, None] * width[..., None]
    found = labels.take(line + columns.nearest(x)[:, None])
    found = (found.long() & (_LABELS - 1)).masked_fill(outside, ignore_index)
    return cut.round_(), found, outside


class _Axis:
    """Where the pixels of a window come from along one axis.

    Args:
        length: Pixels of the image, [B, 1], or [B, 1, 1] for several windows of each image.
        scaled: Pixels of the scaled image, likewise.
        window: Pixels of the window.
    """

    def __init__(self, length: Tensor, scaled: Tensor, window: int) -> None:
        self.last = length - 1
        self.step = 1 / (scaled.double() / length)
        self.shown = scaled.clamp(max=window)  # pixels of the window that show the image
        self.window = window

    def places(
        self, corner: Tensor, flipped: Tensor | None = None, step: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Pixels of the scaled image [B, (K,) w], and which of them are outside of it."""
        place = torch.arange(0, self.window, step, device=corner.device)
        outside = place >= self.shown
        if flipped is not None:
            place = torch.where(flipped, self.shown - 1 - place, place)
        return corner + place, outside

    def nearest(self, place: Tensor) -> Tensor:
        """The image's pixel for each of the scaled image."""
        return (place * self.step).floor().long().clamp(min=0).minimum(self.last)

    def linear(self, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The two nearest pixels of the image, and how far from the first the place is."""
        exact = ((place + 0.5) * self.step - 0.5).clamp(min=0).minimum(self.last)
        first = exact.floor()
        return (
            first.long(),
            (first.long() + 1).minimum(self.last),
            (exact - first).float(),
        )


def _first_varied(
    labels: Tensor,
    start: Tensor,
    width: Tensor,
    rows: _Axis,
    columns: _Axis,
    corners: Tensor,
    ignore_index: int,
    cat_max_ratio: float,
) -> Tensor:
    """The first corner of each image, [B, 2], whose window no label covers too much of."""
    tried = corners[:, :-1]  # the last one is taken in any case
    batch, number = tried.shape[:2]
    y, outside_y = rows.places(tried[..., :1], step=_STEP)  # [B, K - 1, h / 4]
    x, outside_x = columns.places(tried[..., 1:], step=_STEP)
    index = start + rows.nearest(y) * width
    found = labels.take(index.unsqueeze(3) + columns.nearest(x).unsqueeze(2)).long()
    found &= _LABELS - 1
    outside = outside_y.unsqueeze(3) | outside_x.unsqueeze(2)  # [B, 1, h / 4, w / 4]
    counted = (found != ignore_index) & ~outside
    counts = torch.zeros(batch * number, _LABELS, dtype=torch.int32, device=labels.device)
    counts.scatter_add_(1, found.flatten(0, 1).flatten(1), counted.flatten(0, 1).flatten(1).int())
    most, total = counts.amax(1), counts.sum(1)
    varied = ((most > 0) & (most < cat_max_ratio * total)).view(batch, number)
    order = torch.arange(number, device=labels.device)
    chosen = torch.where(varied, order, number).amin(1)
    return corners.gather(1, chosen.view(-1, 1, 1).expand(-1, 1, 2)).squeeze(1)
