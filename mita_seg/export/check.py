"""Comparing an exported file with the model that it was made of.

MiTA's choices are not continuous: where two keys or experts score nearly the same, rounding decides
which one is taken, and another order of the same sums may decide otherwise. With trained weights
that happens in some images and changes all of their scores a little. A wrong file, on the other
hand, agrees on no image. So every place of every batch gets a few images, one of which must agree.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

TOLERANCE = 1e-4  # of scores
EQUAL_LABELS = 0.9999  # share of an image's pixels
DRAWS = 8  # images for a place of a batch, of models that choose


class Comparison(NamedTuple):
    """Largest differences of images' scores, or smallest shares of equal labels."""

    worst_agreeing: float
    differing: int  # images that differ by more
    worst_differing: float | None


def make_images(shape: Sequence[int], seed: int = 0) -> Tensor:
    """Blotches of different brightness and some noise, [B, C, H, W], 0 to 255."""
    batch, channels, *size = shape
    generator = torch.Generator().manual_seed(seed)
    blotches = torch.rand(batch, channels, 8, 8, generator=generator)
    noise = torch.rand(batch, channels, *size, generator=generator)
    images = interpolate(blotches, tuple(size), mode='bilinear', align_corners=False)
    return 255 * (0.8 * images + 0.2 * noise)


def check_file(
    run: Callable[[Tensor], Tensor],
    expected: Callable[[Tensor], Tensor],
    shapes: Sequence[Sequence[int]],
    *,
    chooses: bool,
) -> Comparison:
    """Compare the outputs of a file with those of the model.

    Args:
        run: The file, from images to its output, scores or labels.
        expected: The model, likewise.
        shapes: [B, C, H, W] of the images to try.
        chooses: Whether the model has MiTA attention with routed experts. That of any other model
            must agree on the first images.

    Raises:
        ValueError: They differ, or the file does not run on one of the shapes.
    """
    agreeing, differing, scores = [], [], True
    for shape in map(tuple, shapes):
        pending = torch.ones(shape[0], dtype=torch.bool)
        for seed in range(DRAWS if chooses else 1):
            images = make_images(shape, seed)
            with torch.no_grad():
                wanted = expected(images)
            figures = _compare(_run(run, images), wanted, shape)
            scores = wanted.is_floating_point()
            good = figures <= TOLERANCE if scores else figures >= EQUAL_LABELS
            agreeing += figures[good].tolist()
            differing += figures[~good].tolist()
            pending &= ~good
            if not pending.any():
                break
        else:
            raise ValueError(_describe(figures[~good], scores, shape))
    worst = max if scores else min
    return Comparison(worst(agreeing), len(differing), worst(differing, default=None))


def _run(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            return run(images)
    # Of whatever runs the file.
    except Exception as error:
        reason = ' '.join(str(error).split())[:300]
        raise ValueError(
            f'the exported file does not run on images of shape {tuple(images.shape)}: {reason}'
        ) from error


def _compare(got: Tensor, wanted: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The largest difference, or the share of equal labels, of each image, [B]."""
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        raise ValueError(
            f'of images of shape {shape} the exported file makes {got.dtype} {tuple(got.shape)}, '
            f'the model {wanted.dtype} {tuple(wanted.shape)}'
        )
    if wanted.is_floating_point():
        return (got - wanted).abs().flatten(1).amax(1)
    return (got == wanted).double().flatten(1).mean(1)


def _describe(figures: Tensor, scores: bool, shape: tuple[int, ...]) -> str:
    if scores:
        return (
            f'on images of shape {shape} the scores of the exported file differ by up to '
            f'{figures.max().item():.2g} from those of the model, {TOLERANCE:g} is allowed'
        )
    return (
        f'on images of shape {shape} only {100 * figures.min().item():.3f} % of the labels of the '
        f'exported file are those of the model, {100 * EQUAL_LABELS:g} % are wanted'
    )
