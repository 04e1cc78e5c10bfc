"""Random brightness, contrast, saturation and hue of a batch."""

import torch
from torch import Generator, Tensor


def draw_colours(
    batch: int,
    brightness: float = 32,
    contrast: float = 0.5,
    saturation: float = 0.5,
    hue: float = 36,
    prob: float = 0.5,
    generator: Generator | None = None,
) -> Tensor:
    """Draw what MMSegmentation's PhotoMetricDistortion draws, from the same distributions.

    Args:
        batch: Number of images, B.
        brightness: Largest offset of all channels.
        contrast: Channels are multiplied by 1 - contrast to 1 + contrast.
        saturation: The saturation is multiplied by 1 - saturation to 1 + saturation.
        hue: Largest angle, degrees.
        prob: Probability of each of the four, for each image.
        generator: Of the random numbers; torch's own by default.

    Returns:
        [5, B], float32, on the CPU: offset, first factor, factor of the saturation, angle in sixths
        of a turn, and last factor. One of the two factors is 1.
    """
    amount = 2 * torch.rand(4, batch, generator=generator) - 1
    amount = amount * (torch.rand(4, batch, generator=generator) < prob)
    last = torch.rand(batch, generator=generator) < 0.5
    factor = 1 + contrast * amount[1]
    return torch.stack(
        (
            brightness * amount[0],
            torch.where(last, 1, factor),
            1 + saturation * amount[2],
            hue / 60 * amount[3],
            torch.where(last, factor, 1),
        )
    )


def change_colours(images: Tensor, colours: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image.

    They follow one another, saturation and hue in HSV; for half of the images contrast comes last.
    Values are cut off at 0 and 255 after each, but not rounded. Grey images of one channel stay
    grey: for them it is brightness and contrast.

    Args:
        images: RGB or grey, [B, 3, H, W] or [B, 1, H, W], floating point, from 0 to 255. What they
            hold may be overwritten.
        colours: From :func:`draw_colours`, on the device of the images.

    Returns:
        Images of the same shape, from 0 to 255.

    Raises:
        ValueError: The images have other channels than one or three.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise ValueError(f'colours are changed of images of 1 or 3 channels, got {channels}')
    colours = colours.to(images.dtype)[:, :, None, None, None]
    offset, first_factor, strength, angle, last_factor = colours.unbind()
    images = images.add_(offset).clamp_(0, 255).mul_(first_factor).clamp_(0, 255)
    if channels == 3:
        images = _change_in_hsv(images, strength.squeeze(1), angle.squeeze(1))
    return images.mul_(last_factor).clamp_(0, 255)


def _change_in_hsv(images: Tensor, strength: Tensor, angle: Tensor) -> Tensor:
    """Multiply the saturation and add to the hue, in sixths of a turn; [B, 3, H, W], RGB."""
    red, green, blue = images.unbind(1)
    value = images.amax(1)  # [B, H, W]
    spread = value - images.amin(1)
    safe = spread.clamp(min=1e-6)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + angle
    spread = (spread * strength).minimum(value)
    # How much of the spread a channel lies below the value, at this hue: 0 near its own colour.
    parts = []
    for shift in (5, 3, 1):
        place = (hue + shift).remainder(6)
        parts.append(value - spread * place.minimum(4 - place).clamp_(0, 1))
    return torch.stack(parts, 1)
