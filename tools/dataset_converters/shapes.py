"""Writing the drawn scenes to disk in ADE20K's layout."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np

from mita_seg.datasets.shapes import CLASSES, PALETTE, draw_scene
from mita_seg.utils.files import taking_place, write_json
from mita_seg.utils.pictures import write_picture

_MARK = 'shapes.json'
# Raised whenever the drawing changes, so that folders of an older version are drawn again.
_VERSION = 2


def write_shapes(out, num_train=800, num_val=60, size=128, seed=0, on_image=None):
    """Write ``{images,annotations}/{training,validation}`` below a folder.

    The same settings give the same files bit for bit (with the same NumPy and OpenCV), and an image
    does not depend on how many others are drawn. A folder that already holds these settings is left
    alone; one that holds others, or was left half-written, is drawn again.

    Args:
        out (str | os.PathLike): The folder.
        num_train (int): Number of training pairs.
        num_val (int): Number of validation pairs.
        size (int): Height and width in pixels, at least 32.
        seed (int): Seed of the whole set, not negative.
        on_image (Callable[[], None], optional): Called after each pair.

    Returns:
        bool: Whether anything was written.

    Raises:
        ValueError: A setting is out of range, or the folder holds something else.
    """
    for name, value, low in (
        ('num_train', num_train, 1),
        ('num_val', num_val, 1),
        ('size', size, 32),
        ('seed', seed, 0),
    ):
        if value < low:
            raise ValueError(f'{name} must be at least {low}, got {value}')
    out = Path(out)
    settings = {
        'version': _VERSION,
        'num_train': num_train,
        'num_val': num_val,
        'size': size,
        'seed': seed,
        'classes': list(CLASSES),
        'palette': [list(colour) for colour in PALETTE],
    }
    if out.exists() and not out.is_dir():
        raise ValueError(f'{str(out)!r} is a file')
    if out.is_dir() and any(out.iterdir()) and not (out / _MARK).is_file():
        raise ValueError(f'{str(out)!r} holds other files; choose a new folder or empty it')
    if _is_complete(out, settings):
        return False

    # Drawn beside the target and moved as a whole: an interrupted run leaves no half set behind.
    partial = out.with_name(out.name + '.partial')
    shutil.rmtree(partial, ignore_errors=True)
    splits = {'training': num_train, 'validation': num_val}
    with taking_place(partial, out):
        for stream, (split, count) in enumerate(splits.items()):
            for folder in ('images', 'annotations'):
                (partial / folder / split).mkdir(parents=True)
            for index in range(count):
                image, labels = draw_scene(np.random.default_rng([seed, stream, index]), size)
                name = f'shapes_{split}_{index:05d}'
                options = [cv2.IMWRITE_JPEG_QUALITY, 95]
                write_picture(partial / 'images' / split / f'{name}.jpg', image, *options)
                write_picture(partial / 'annotations' / split / f'{name}.png', labels)
                if on_image is not None:
                    on_image()
        write_json(partial / _MARK, settings)
    return True


def _is_complete(out, settings):
    try:
        found = json.loads((out / _MARK).read_text())
    except (FileNotFoundError, ValueError):
        return False
    count = settings['num_train'] + settings['num_val']
    return (
        found == settings
        and len(list(out.glob('images/*/*.jpg'))) == count
        and len(list(out.glob('annotations/*/*.png'))) == count
    )
