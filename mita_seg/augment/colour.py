"""Random brightness, contrast, saturation and hue of a batch as one matrix an image."""

import math

import torch
from torch import Tensor

# Luma of ITU-R BT.601, the grey of JPEG and OpenCV.
_LUMA = (0.299, 0.587, 0.114)


def jitter_colours(
    images: Tensor,
    brightness: float = 32,
    contrast: float = 0.5,
    saturation: float = 0.5,
    hue: float = 36,
    prob: float = 0.5,
) -> Tensor:
    """Change the colours of each image at random.

    The strengths are those of MMSegmentation's PhotoMetricDistortion; each change is linear in
    RGB (hue turns the colours about the grey axis), so all four are one 3x3 matrix and an offset.
    Grey images of one channel stay grey: for them it is brightness and contrast.

    Args:
        images: RGB or grey, [B, 3, H, W] or [B, 1, H, W], floating point, from 0 to 255.
        brightness: Largest offset of all channels.
        contrast: Channels are multiplied by 1 - contrast to 1 + contrast.
        saturation: The distance from grey is multiplied by 1 - saturation to 1 + saturation.
        hue: Largest angle, degrees.
        prob: Probability of each of the four, for each image.

    Returns:
        Images of the same shape, from 0 to 255.

    Raises:
        ValueError: The images have other channels than one or three.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise ValueError(f'colours are changed of images of 1 or 3 channels, got {channels}')
    batch, device, dtype = len(images), images.device, images.dtype
    amount = 2 * torch.rand(4, batch, device=device, dtype=dtype) - 1
    amount = amount * (torch.rand(4, batch, device=device) < prob)
    offset = brightness * amount[0]
    factor = 1 + contrast * amount[1]
    strength = (1 + saturation * amount[2]).view(-1, 1, 1)
    angle = (math.radians(hue) * amount[3]).view(-1, 1, 1)

    eye = torch.eye(3, device=device, dtype=dtype)
    grey = torch.cat([weight * torch.ones_like(eye[:, :1]) for weight in _LUMA], dim=1)
    saturate = strength * eye + (1 - strength) * grey
    turn = _rotation_about_grey(angle, eye)
    matrix = factor.view(-1, 1, 1) * (turn @ saturate)  # [B, 3, 3]
    # Grey stays grey under saturation and hue, and so does the offset.
    pixels = images.flatten(2).expand(-1, 3, -1)
    shifted = torch.baddbmm((factor * offset).view(-1, 1, 1), matrix, pixels)[:, :channels]
    return shifted.clamp_(0, 255).unflatten(2, images.shape[2:])


def _rotation_about_grey(angle: Tensor, eye: Tensor) -> Tensor:
    """Rotations by angles [B, 1, 1] about (1, 1, 1), [B, 3, 3] (Rodrigues' formula)."""
    onto_axis = torch.full_like(eye, 1 / 3)
    cross = (eye.roll(-1, 0) - eye.roll(1, 0)) / -math.sqrt(3)
    return onto_axis + angle.cos() * (eye - onto_axis) + angle.sin() * cross
