"""Images and videos that a command line names."""

import glob
import os
from pathlib import Path

import cv2

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.jp2')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')


def find_sources(inputs, out):
    """List the files that inputs name.

    Args:
        inputs (Sequence[str]): Files, folders (everything below) and globs (``**`` for any depth).
            Of folders and globs images and videos count, told by their names' endings.
        out (str): Folder that will be written to, whose files are left out.

    Returns:
        list[str]: Absolute paths, each once, in the order of the inputs, sorted within each.

    Raises:
        FileNotFoundError: An input is no file and no folder and matches none.
        ValueError: A folder or glob holds no image or video, or a file lies in `out`.
    """
    out = Path(out).resolve()
    found = {}
    for given in inputs:
        if os.path.isfile(given):
            if out in Path(given).resolve().parents:
                raise ValueError(f'input {given!r} lies in the folder to be written, {str(out)!r}')
            files = [given]
        else:
            files = [file for file in _below(given) if out not in Path(file).resolve().parents]
            if not files:
                raise ValueError(
                    f'input {given!r} holds no image or video ({" ".join(IMAGES + VIDEOS)})'
                )
        found.update(dict.fromkeys(os.path.abspath(file) for file in files))
    return list(found)


def is_video(path):
    """Whether a file's name has the ending of a video."""
    return path.lower().endswith(VIDEOS)


def count_frames(path):
    """How many frames a video says it has; at least 0."""
    video = cv2.VideoCapture(path)
    try:
        return max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
    finally:
        video.release()


def read_frames(path):
    """Read a video.

    Args:
        path (str): The file.

    Yields:
        tuple[ndarray, float]: Frame `[h, w, 3]` (uint8; blue, green, red), and frames a second.

    Raises:
        ValueError: OpenCV cannot read it.
    """
    video = cv2.VideoCapture(path)
    try:
        rate = video.get(cv2.CAP_PROP_FPS) or 25.0
        is_there, frame = video.read()
        if not is_there:
            raise ValueError(f'video {path!r} cannot be read by OpenCV')
        while is_there:
            yield frame, rate
            is_there, frame = video.read()
    finally:
        video.release()


def _below(given):
    if os.path.isdir(given):
        names = [
            os.path.join(parent, name) for parent, _, below in os.walk(given) for name in below
        ]
    else:
        names = glob.glob(given, recursive=True)
        if not names:
            what = 'matches nothing' if glob.has_magic(given) else 'does not exist'
            raise FileNotFoundError(f'input {given!r} {what}')
        folders = [name for name in names if os.path.isdir(name)]
        names = [name for name in names if name not in folders]
    return sorted(name for name in names if name.lower().endswith(IMAGES + VIDEOS))
