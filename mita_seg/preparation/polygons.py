"""Outlines filled into maps of codes."""

import cv2
import numpy as np


def fill(codes, rings, code):
    """Fill an outline, in place.

    Args:
        codes (ndarray): `[h, w]`, int32.
        rings (Sequence): Each a sequence of x and y in turn, or of pairs, in pixels.
        code (int): What to fill it with.

    Raises:
        ValueError: A ring has fewer than three points.
    """
    outlines = [np.asarray(ring, float).reshape(-1, 2) for ring in rings]
    if any(len(outline) < 3 for outline in outlines):
        raise ValueError('outline of fewer than three points')
    # In 1/16 of a pixel. x = 0 is the left edge of the first pixel, whose centre OpenCV calls 0.
    points = [((outline - 0.5) * 16).round().astype(np.int32) for outline in outlines]
    cv2.fillPoly(codes, points, code, shift=4)
