"""Comparing an exported file with the model that it was made of."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

TOLERANCE = 1e-4  # of scores
EQUAL_LABELS = 0.9999


def make_images(batch: int, channels: int, size: Sequence[int]) -> Tensor:
    """Blotches of different brightness and some noise, [B, channels, H, W], 0 to 255."""
    generator = torch.Generator().manual_seed(0)
    blotches = torch.rand(batch, channels, 8, 8, generator=generator)
    noise = torch.rand(batch, channels, *size, generator=generator)
    images = interpolate(blotches, tuple(size), mode='bilinear', align_corners=False)
    return 255 * (0.8 * images + 0.2 * noise)


def check_file(
    run: Callable[[Tensor], Tensor], expected: Callable[[Tensor], Tensor], shapes: Sequence
) -> float:
    """Compare the outputs of a file with those of the model.

    Args:
        run: The file, from images to its output.
        expected: The model, likewise.
        shapes: [B, C, H, W] of the images to try.

    Returns:
        Of scores, the largest difference; of labels, the smallest share of equal ones.

    Raises:
        ValueError: They differ, or the file does not run on one of the shapes.
    """
    worst = None
    for shape in shapes:
        images = make_images(shape[0], shape[1], shape[2:])
        with torch.no_grad():
            wanted = expected(images)
            try:
                got = run(images)
            # Of whatever runs the file.
            except Exception as error:
                reason = ' '.join(str(error).split())[:300]
                raise ValueError(
                    f'the exported file does not run on images of shape {tuple(shape)}: {reason}'
                ) from error
        figure = _compare(got, wanted, tuple(shape))
        if worst is None:
            worst = figure
        worst = max(worst, figure) if wanted.is_floating_point() else min(worst, figure)
    return worst


def _compare(got: Tensor, wanted: Tensor, shape: tuple[int, ...]) -> float:
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        raise ValueError(
            f'of images of shape {shape} the exported file makes {got.dtype} {tuple(got.shape)}, '
            f'the model {wanted.dtype} {tuple(wanted.shape)}'
        )
    if not wanted.is_floating_point():
        share = (got == wanted).double().mean().item()
        if share < EQUAL_LABELS:
            raise ValueError(
                f'on images of shape {shape} only {100 * share:.3f} % of the labels of the '
                f'exported file are those of the model, {100 * EQUAL_LABELS:g} % are wanted'
            )
        return share
    difference = (got - wanted).abs().max().item()
    if not difference <= TOLERANCE:
        raise ValueError(
            f'on images of shape {shape} the scores of the exported file differ by up to '
            f'{difference:.2g} from those of the model, {TOLERANCE:g} is allowed'
        )
    return difference
