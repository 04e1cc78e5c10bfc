"""Checking a downloaded ADE20K (ADEChallengeData2016) file by file."""

import multiprocessing
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mita_seg.datasets.orientation import exif_orientation
from mita_seg.datasets.suffix import spelt_otherwise

PAIRS = {'training': 20210, 'validation': 2000}
HIGHEST_LABEL = 150
# Found, and told, but no fault: loading leaves the orientation out.
ORIENTED = 'images with an EXIF orientation, read as stored (LoadImageFromFile would turn them)'


def check_ade20k(root, quick=False, workers=None, progress=lambda pairs, total: pairs):
    """Find everything that is wrong with a copy of ADE20K.

    Args:
        root (str | os.PathLike): The folder with ``images`` and ``annotations`` in it.
        quick (bool): Compare the file names only, decode nothing.
        workers (int, optional): Number of processes; defaults to one per core.
        progress (Callable): Wraps the iterator over the pairs, given their number.

    Returns:
        dict[str, list[str]]: What is wrong -> the files, relative to ``root``; empty if nothing.
        ``ORIENTED`` is among it, which is no fault as long as the images are read as stored.
    """
    root = Path(root)
    problems = {}
    pairs = []
    for split, expected in PAIRS.items():
        images, skipped_images = _stems(root, f'images/{split}', '.jpg')
        labels, skipped_labels = _stems(root, f'annotations/{split}', '.png')
        for suffix, skipped in (('.jpg', skipped_images), ('.png', skipped_labels)):
            if skipped:
                what = f'files that training skips, as their names do not end in {suffix}'
                problems.setdefault(what, []).extend(skipped)
        shared = sorted(images & labels)
        if len(shared) != expected:
            problems[f'{split}: {len(shared)} pairs instead of {expected}'] = []
        _add(problems, 'images without a label map', images - labels, f'images/{split}', 'jpg')
        _add(
            problems, 'label maps without an image', labels - images, f'annotations/{split}', 'png'
        )
        pairs += [(f'images/{split}/{s}.jpg', f'annotations/{split}/{s}.png') for s in shared]
    if not quick:
        with multiprocessing.Pool(workers) as pool:
            found = pool.imap_unordered(partial(check_pair, root), pairs, chunksize=16)
            for pair_problems in progress(found, len(pairs)):
                for what, file in pair_problems:
                    problems.setdefault(what, []).append(file)
    return {what: sorted(files) for what, files in problems.items()}


def check_pair(root, pair):
    """Decode an image and its label map.

    Args:
        root (Path): The data folder.
        pair (tuple[str, str]): Image and label map, relative to it.

    Returns:
        list[tuple[str, str]]: What is wrong, and with which file.
    """
    image, label = pair
    problems = []
    sizes = []
    values = None
    for file in pair:
        try:
            with Image.open(root / file) as decoded:
                decoded.load()
                sizes.append(decoded.size)
                values = np.asarray(decoded)
        # Pillow answers damaged files with half a dozen exception types.
        except Exception:
            problems.append(('unreadable or truncated files', file))
    if len(sizes) < 2:
        return problems
    if exif_orientation(root / image) != 1:
        problems.append((ORIENTED, image))
    if sizes[0] != sizes[1]:
        problems.append(('label maps of another size than their image', label))
    if values.ndim != 2:
        problems.append(('label maps that are not one channel of class indices', label))
    elif values.max() > HIGHEST_LABEL:
        problems.append((f'label maps with values above {HIGHEST_LABEL}', label))
    return problems


def _stems(root, folder, suffix):
    """Names without the suffix, and the images of this kind whose suffix is spelt otherwise."""
    names = [path.name for path in (root / folder).iterdir()]
    return (
        {name.removesuffix(suffix) for name in names if name.endswith(suffix)},
        [f'{folder}/{name}' for name in names if spelt_otherwise(name, suffix)],
    )


def _add(problems, what, stems, folder, suffix):
    if stems:
        problems.setdefault(what, []).extend(f'{folder}/{stem}.{suffix}' for stem in stems)
