"""The sizes at which operators and models are measured."""

import re
from math import isqrt
from typing import NamedTuple

HEAD_DIM = 64
CASE_TITLE = 'N={tokens} B*H={heads} m={landmarks} k={topk}'


class Case(NamedTuple):
    """Tensors [1, heads, tokens, 64] and the experts of MiTA attention."""

    tokens: int  # N
    heads: int  # batch size times heads
    landmarks: int  # m, of a square grid
    topk: int  # k, keys per expert
    others: int = 0  # tokens behind the patches, which form a square grid

    def __str__(self) -> str:
        return CASE_TITLE.format(**self._asdict())

    @property
    def grid(self) -> tuple[int, int]:
        """Patch grid (h, w)."""
        return (isqrt(self.tokens - self.others),) * 2

    @property
    def landmark_grid(self) -> tuple[int, int]:
        """Landmark grid (mh, mw)."""
        return (isqrt(self.landmarks),) * 2


# Sequences of a training step: short ones in large batches, long ones in small.
CUDA_CASES = (
    Case(1024, 48, 49, 49),
    Case(1024, 192, 49, 49),
    Case(4096, 48, 49, 49),
    Case(16384, 12, 49, 49),
    Case(65536, 6, 49, 49),
    Case(16384, 12, 256, 256),
)
CPU_CASES = (Case(1024, 6, 49, 49), Case(4096, 6, 49, 49))


class Crop(NamedTuple):
    """A batch of square images."""

    pixels: int  # of a side
    batch: int

    def __str__(self) -> str:
        return f'{self.pixels} px, batch {self.batch}'


CUDA_CROPS = (Crop(512, 16), Crop(1024, 8), Crop(2048, 2))
CPU_CROPS = (Crop(256, 1),)
CROP_UNIT = 32  # pixels: two patches of the shipped models


def parse_case(text: str) -> Case:
    """Read a case such as ``4096:48:49:49``, which is N, B*H, m and k.

    ``1024+150:48:36:36`` has 150 tokens behind 1,024 patches, as a decoder of 150 classes has.

    Raises:
        ValueError: Not such positive integers, or the patches or m are not a square.
    """
    patches, *others, heads, landmarks, topk = _read_counts(
        'case', 'P+Q:BH:M:K' if '+' in text else 'N:BH:M:K', text
    )
    case = Case(patches, heads, landmarks, topk)
    for name, count in (('N', case.tokens), ('m', case.landmarks)):
        if isqrt(count) ** 2 != count:
            raise ValueError(
                f'{name} must be a square, since patches and landmarks form square grids; '
                f'got {name}={count} in {text!r}'
            )
    return case._replace(tokens=patches + sum(others), others=sum(others))


def parse_crop(text: str) -> Crop:
    """Read a crop such as ``1024:8``, which is the side in pixels and the batch size.

    Raises:
        ValueError: Not two positive integers, or the side is not a multiple of 32.
    """
    crop = Crop(*_read_counts('crop', 'PIXELS:BATCH', text))
    if crop.pixels % CROP_UNIT:
        raise ValueError(f'a crop must be a multiple of {CROP_UNIT} pixels, got {text!r}')
    return crop


def _read_counts(what, form, text):
    parts = re.split('[:+]', text)
    same_form = re.sub('[^:+]', '', text) == re.sub('[^:+]', '', form)
    if not same_form or not all(p.isdecimal() and int(p) for p in parts):
        raise ValueError(f'a {what} must be positive integers {form}, got {text!r}')
    return map(int, parts)
