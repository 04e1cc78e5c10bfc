"""Pictures as files that are whole or absent."""

from pathlib import Path

import cv2

from .files import replacing


def write_picture(path, pixels, *options):
    """Write a picture with OpenCV, whose own writing leaves out why it fails, or that it does.

    Args:
        path (str | os.PathLike): The file; its ending says the format.
        pixels (ndarray): `[h, w]`, or `[h, w, C]` with the channels blue, green, red.
        *options (int): As for ``cv2.imwrite``.

    Raises:
        OSError: It cannot be written.
        ValueError: OpenCV does not write such pixels in that format.
    """
    try:
        done, content = cv2.imencode(Path(path).suffix, pixels, options)
    except cv2.error as error:
        raise ValueError(f'{str(path)!r} cannot be encoded: {error.err}') from error
    if not done:
        raise ValueError(f'{str(path)!r} cannot be encoded')
    with replacing(path, 'wb') as file:
        file.write(content)
