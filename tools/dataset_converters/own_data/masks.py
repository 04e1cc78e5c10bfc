"""Images and masks as files: indices, palettes or colours."""

import os
import re
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from .pairs import IMAGES, Found, Pair, split_named

_MASK_FOLDER = re.compile(
    r'(masks?|labels?|annotations?|annots?|anns?|gt|gtfine|ground_?truths?|targets?'
    r'|segmentations?|segmentation_?class|semantic|segmaps?)([-_].*)?$|.*[-_](masks?|labels?)$',
    re.IGNORECASE,
)
# What is added to the name of an image to name its mask, or to tell the image itself.
_MASK_END = re.compile(
    r'[-_.](masks?|labels?|label_?ids|seg|segmentation|gt|gtfine_labelids|annotation|l)$',
    re.IGNORECASE,
)
_IMAGE_END = re.compile(r'[-_.](image|img|rgb|leftimg8bit|sat)$', re.IGNORECASE)


def find_masks(folder, images=None, masks=None):
    """Match images and masks by their names.

    Masks lie in a folder called masks, labels, annotations or the like, or beside the images with
    ``_mask``, ``_label`` or the like at the end of the name, or as the PNG to a JPEG of equal name.

    Args:
        folder (Path): The folder.
        images (str, optional): Folder of the images, relative to it.
        masks (str, optional): Folder of the masks, relative to it.

    Returns:
        Found: The pairs; what has no partner is among the problems.

    Raises:
        ValueError: There is no pair.
    """
    image_files, mask_files = _tell_apart(folder, images, masks)
    found = Found('masks', [])
    partners = _by_name(folder, mask_files, _MASK_END)
    taken = set()
    for image, key in _keys(folder, image_files, _IMAGE_END).items():
        options = partners.get(key) or partners.get(key[-1:]) or []
        if len(options) == 1:
            taken.add(options[0])
            split = split_named(image.relative_to(folder)) or split_named(
                options[0].relative_to(folder)
            )
            read = partial(read_codes, options[0])
            found.pairs.append(Pair(image, options[0], read, split))
        else:
            reason = 'image with several masks' if options else 'image without a mask'
            found.leave_out(reason, image)
    # One of them is no image, such as Pascal VOC's SegmentationObject.
    claims = Counter(pair.mask for pair in found.pairs)
    for pair in found.pairs:
        if claims[pair.mask] > 1:
            found.leave_out('image that shares its mask with another', pair.image)
    found.pairs = [pair for pair in found.pairs if claims[pair.mask] == 1]
    for mask in mask_files:
        if mask not in taken:
            found.leave_out('mask without an image', mask)
    if not found.pairs:
        raise ValueError(
            f'{str(folder)!r} holds no pair of image and mask ({len(image_files)} images, '
            f'{len(mask_files)} masks): one image and one mask of a name are looked for; --images '
            'and --masks name their two folders'
        )
    _tell_kind(found)
    return found


def read_codes(path, grey=False):
    """Read a mask file.

    Args:
        path (Path): The file.
        grey (bool): Whether a colour file is one of indices, all three channels of which are equal.

    Returns:
        ndarray: `[h, w]`, int32: the indices, or red * 65536 + green * 256 + blue.

    Raises:
        ValueError: It cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ('RGB', 'RGBA', 'CMYK', 'YCbCr', 'LA', 'PA'):
                channels = np.asarray(image.convert('RGB')).astype(np.int32)
                if grey:
                    return channels[..., 0]
                return channels[..., 0] * 65536 + channels[..., 1] * 256 + channels[..., 2]
            return np.asarray(image).astype(np.int32)
    # Pillow has half a dozen exceptions for damaged files.
    except Exception as error:
        raise ValueError('mask that cannot be read') from error


def _tell_kind(found):
    """Say what kind of masks these are, by up to 20 of them."""
    modes, grey, lossy = Counter(), True, False
    for pair in found.pairs[:: max(1, len(found.pairs) // 20)]:
        try:
            with Image.open(pair.mask) as image:
                lossy |= image.format == 'JPEG'
                mode = 'RGB' if image.mode in ('RGBA', 'CMYK', 'YCbCr', 'LA', 'PA') else image.mode
                modes[mode] += 1
                if mode == 'RGB':
                    pixels = np.asarray(image.convert('RGB'))
                    grey = grey and bool((pixels == pixels[..., :1]).all())
                if image.mode == 'P' and image.getpalette('RGB'):
                    colours = np.array(image.getpalette('RGB')).reshape(-1, 3).tolist()
                    found.palette = dict(enumerate(map(tuple, colours)))
        except Exception:  # a damaged one: reading names it
            continue
    kind = modes.most_common(1)[0][0] if modes else 'L'
    if lossy:
        raise ValueError(
            'the masks are JPEG files, which change values: save them as PNG from their source'
        )
    if kind == 'RGB' and not grey:
        found.kind, found.by_colour = 'masks of colours', True
    else:
        found.kind = 'masks of indices with a palette' if kind == 'P' else 'masks of indices'
        if kind == 'RGB':
            found.kind += ', saved as grey colours'
        for pair in found.pairs:
            pair.read_codes = partial(read_codes, pair.mask, grey=True)


def _tell_apart(folder, images, masks):
    """Lists of the images and of the masks."""
    if (images is None) != (masks is None):
        raise ValueError('--images and --masks go together')
    if images is not None:
        roots = [folder / images, folder / masks]
        for name, root in zip(('--images', '--masks'), roots, strict=True):
            if not root.is_dir():
                raise ValueError(f'{name} {str(root)!r} is no folder')
        return _files(roots[0]), _files(roots[1])
    files = _files(folder)
    is_mask = {
        file: any(_MASK_FOLDER.match(part) for part in file.relative_to(folder).parts[:-1])
        for file in files
    }
    if not any(is_mask.values()):  # side by side
        stems = Counter(str(file.with_suffix('')) for file in files)
        for file in files:
            twin = stems[str(file.with_suffix(''))] > 1 and file.suffix.lower() == '.png'
            is_mask[file] = twin or bool(_MASK_END.search(file.stem))
    return [f for f in files if not is_mask[f]], [f for f in files if is_mask[f]]


def _files(root):
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(root)
        for name in names
        if name.lower().endswith(IMAGES) and not name.startswith('.')
    )


def _keys(folder, files, ending):
    """Folders, without those that name a kind, and name of each file, without what ends it."""
    keys = {}
    for file in files:
        *parts, name = file.relative_to(folder).with_suffix('').parts
        keys[file] = (*(split_named(Path(part, '_')) or '' for part in parts), ending.sub('', name))
        keys[file] = tuple(part.lower() for part in keys[file] if part)
    return keys


def _by_name(folder, files, ending):
    """Files by their keys, and by their names alone."""
    known = defaultdict(list)
    for file, key in _keys(folder, files, ending).items():
        known[key].append(file)
        if len(key) > 1:
            known[key[-1:]].append(file)
    return known
