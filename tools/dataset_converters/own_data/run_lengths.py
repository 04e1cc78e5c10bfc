"""Masks of COCO that are written as run lengths."""

import numpy as np


def decode_runs(segmentation, size):
    """Decode a run-length mask.

    Args:
        segmentation (dict): ``size`` (height, width) and ``counts``, a list, or text with five bits
            a character in which each count but the first three is the difference to the last but
            one.
        size (tuple[int, int]): That of the image.

    Returns:
        ndarray: `[h, w]`, bool.

    Raises:
        ValueError: The lengths do not add up to the size, or it is not the image's.
    """
    height, width = size
    if tuple(segmentation['size']) != tuple(size):
        raise ValueError('run lengths of another size')
    counts = segmentation['counts']
    if isinstance(counts, (str, bytes)):
        counts = _unpack(counts.encode() if isinstance(counts, str) else counts)
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise ValueError('run lengths that do not fit the size')
    values = np.arange(len(counts)) % 2 == 1  # the first run is of zeros
    return np.repeat(values, counts).reshape(width, height).T


def _unpack(text):
    counts, value, shift = [], 0, 0
    for byte in text:
        bits = byte - 48
        value |= (bits & 31) << shift
        shift += 5
        if shift > 60:
            raise ValueError('a run length of more than 60 bits')
        if bits & 32:  # another character follows
            continue
        if bits & 16:  # negative
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    return counts
