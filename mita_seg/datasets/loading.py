"""MMSegmentation's loading transforms with errors that name the file."""

import io
import os
import re

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS
from PIL import Image

from mita_seg.registry import TRANSFORMS as STOCK_NAMES

from .orientation import exif_orientation

# The ignored label by the bits of a label map: the largest that they hold.
IGNORE, IGNORE_16_BITS = 255, 65535
_PNG = b'\x89PNG\r\n\x1a\n'


@STOCK_NAMES.register_module(name='LoadImageFromFile')
@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """``LoadImageFromFile`` whose errors name the image, and which reads the pixels as stored.

    An EXIF orientation is left out, since label maps have none: see
    :func:`mita_seg.datasets.orientation.exif_orientation`. A local file's size is read before its
    pixels: an image of more than twice ``PIL.Image.MAX_IMAGE_PIXELS`` (179 million in all) is
    refused, as its label map would be.

    MMSegmentation's tools look for the loading by the stock name, so a config had best call it
    ``dict(type='LoadImageFromFile', _scope_='mita_seg')``.

    Args:
        *args: As in ``LoadImageFromFile``.
        **kwargs: As in ``LoadImageFromFile``.

    Raises:
        FileNotFoundError: There is no such image.
        ValueError: The file cannot be decoded or is too large, its header says a size for which the
            file is too small, or it has 16 bits a channel, which the back end 'pillow' cuts off.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # The other back ends never turn an image, and do not all know these names.
        if self.imdecode_backend in ('cv2', 'pillow') and self.color_type in ('color', 'grayscale'):
            self.color_type += '_ignore_orientation'

    def transform(self, results):
        path = results['img_path']
        check_header(path, self.imdecode_backend)
        try:
            return super().transform(results)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'image {path!r} does not exist') from error
        # What a decoder raises differs between back ends and releases.
        except Exception as error:
            raise ValueError(
                f'image {path!r} cannot be decoded: truncated, or not an image'
            ) from error


@STOCK_NAMES.register_module(name='LoadAnnotations')
@TRANSFORMS.register_module()
class LoadCheckedLabels(LoadAnnotations):
    """``LoadAnnotations`` that refuses labels outside the classes.

    The values are checked as they stand in the file, before ``reduce_zero_label`` and ``label_map``
    are applied. Samples without ``seg_map_path`` pass through, so that one pipeline serves both
    evaluation and ``mmseg.apis``.

    Args:
        num_classes (int): Number of classes in the label files, the ignored one not counted.
            Accepted are ``0 .. num_classes - 1`` (``0 .. num_classes`` with ``reduce_zero_label``)
            and `ignore_index`.
        ignore_index (int): The ignored label, 255, or 65535 for label maps of 16 bits, which may
            have more than 254 classes. Then the decode head, the data preprocessor and the metrics
            must be told it too.
        backend_args (dict, optional): As in ``LoadAnnotations``.
        imdecode_backend (str): As in ``LoadAnnotations``.

    Raises:
        FileNotFoundError: There is no such label map.
        ValueError: The label map cannot be decoded or is too large, is not of the image's size, is
            in a format that changes values, does not hold integers or holds values that are not
            accepted; they are listed.
    """

    def __init__(
        self,
        num_classes,
        backend_args=None,
        imdecode_backend='pillow',
        ignore_index=IGNORE,
    ):
        super().__init__(backend_args=backend_args, imdecode_backend=imdecode_backend)
        if isinstance(num_classes, bool) or not isinstance(num_classes, int):
            raise TypeError(f'num_classes must be an integer, got {num_classes!r}')
        if ignore_index not in (IGNORE, IGNORE_16_BITS):
            raise ValueError(
                f'ignore_index must be {IGNORE} or {IGNORE_16_BITS}, got {ignore_index!r}'
            )
        if not 1 <= num_classes < ignore_index:
            wider = ignore_index == IGNORE
            raise ValueError(
                f'num_classes must be in 1..{ignore_index - 1}, got {num_classes}'
                + (f'; ignore_index={IGNORE_16_BITS} takes more' if wider else '')
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def transform(self, results):
        return super().transform(results) if 'seg_map_path' in results else results

    def _load_seg_map(self, results):
        path = results['seg_map_path']
        reduce_zero = results['reduce_zero_label']
        labels = self._read(path)
        size = results.get('ori_shape')
        if size is not None and labels.shape != tuple(size):
            raise ValueError(
                f'label map {path!r} is {labels.shape[1]}x{labels.shape[0]} pixels, '
                f'its image {size[1]}x{size[0]}' + self._why_turned(results, labels.shape)
            )
        self._check_range(labels, path, self.num_classes - 1 + reduce_zero)
        lookup = self._lookup(reduce_zero, results.get('label_map'))
        results['gt_seg_map'] = lookup[labels]
        results['seg_fields'].append('gt_seg_map')

    def _why_turned(self, results, shape):
        """What to add where an orientation may be why the sizes differ."""
        if shape != tuple(results['ori_shape'])[::-1]:
            return ''
        try:
            orientation = exif_orientation(results['img_path'])
        except (KeyError, OSError):  # behind a storage back end, or no file at all
            return ''
        if orientation == 1:
            return ''
        return (
            f'; the image has EXIF orientation {orientation}, which LoadCheckedImage leaves out '
            'and LoadImageFromFile applies: label maps must show the pixels as they are stored'
        )

    def _read(self, path):
        try:
            data = fileio.get(path, backend_args=self.backend_args)
            _refuse_what_changes_values(path, data)
            if not _chunks_fit(io.BytesIO(data)):
                raise ValueError('a chunk is larger than the file')
            labels = mmcv.imfrombytes(data, flag='unchanged', backend=self.imdecode_backend)
            if labels is None:  # OpenCV's answer
                raise ValueError('not an image')
        except FileNotFoundError as error:
            raise FileNotFoundError(f'label map {path!r} does not exist') from error
        except Image.DecompressionBombError as error:
            raise ValueError(_too_large('label map', path, error)) from error
        except _ChangesValues:
            raise
        except Exception as error:
            raise ValueError(
                f'label map {path!r} cannot be decoded: truncated, or not an image'
            ) from error
        if labels.ndim == 3 and labels.shape[2] == 1:
            labels = labels[..., 0]
        if labels.ndim != 2:
            raise ValueError(
                f'label map {path!r} has shape {labels.shape}; expected one channel of classes'
            )
        # One-bit files decode to booleans, which would index as a mask.
        labels = labels.astype(np.uint8) if labels.dtype == bool else labels
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f'label map {path!r} holds {labels.dtype} numbers; expected integers, the classes'
            )
        return labels

    def _check_range(self, labels, path, highest):
        ignored = self.ignore_index
        outside = (labels < 0) | ((labels > highest) & (labels != ignored))
        if outside.any():
            values = np.unique(labels[outside])
            shown = ', '.join(map(str, values[:8])) + (', ...' if len(values) > 8 else '')
            raise ValueError(
                f'label map {path!r} holds {shown}; accepted: 0..{highest} and {ignored} (ignored)'
            )

    def _lookup(self, reduce_zero, label_map):
        """File value -> training label, `[256]` uint8 or `[65536]` uint16."""
        ignored = self.ignore_index
        table = np.arange(ignored + 1)
        if reduce_zero:
            table = np.where((table == 0) | (table == ignored), ignored, table - 1)
        if label_map:
            table = np.array([label_map.get(value, value) for value in table.tolist()])
        return table.astype(np.uint8 if ignored == IGNORE else np.uint16)


def check_header(path, backend='cv2'):
    """Refuse an image by its header, before gigabytes are filled with its pixels.

    Args:
        path (str): The image.
        backend (str): What will decode it.

    Raises:
        ValueError: It is too large, too small for the size that its header says, or has values
            that the back end cuts off.
    """
    if os.path.isfile(path):
        with open(path, 'rb') as file:
            if not _chunks_fit(file):
                raise ValueError(f'image {path!r} cannot be decoded: truncated, or not an image')
    try:
        with Image.open(path) as image:
            kind, mode, (width, height) = image.format, image.mode, image.size
        count = os.path.getsize(path)
    except Image.DecompressionBombError as error:
        raise ValueError(_too_large('image', path, error)) from error
    # Behind a storage back end, missing, damaged, or of a kind that Pillow does not know, for which
    # it has half a dozen exceptions: loading tells.
    except Exception:
        return
    # A JPEG has a bit or more for each block of 8x8 pixels. Decoders paint what is missing grey.
    if kind == 'JPEG' and width * height > 64 * 8 * count:
        raise ValueError(
            f'image {path!r} cannot be decoded: a file of {count:,} bytes is no JPEG of '
            f'{width}x{height} pixels, as its header says'
        )
    if backend == 'pillow' and mode.startswith(('I', 'F')):
        raise ValueError(
            f'image {path!r} has more than 8 bits a channel ({mode}), which imdecode_backend='
            "'pillow' cuts off: take 'cv2', or save it with 8 bits"
        )


def _chunks_fit(file):
    """Whether a PNG is as long as its chunks say, for which OpenCV takes up to 4 GB each."""
    if file.read(len(_PNG)) != _PNG:
        return True
    end = file.seek(0, os.SEEK_END)
    place = len(_PNG)
    while place < end:
        file.seek(place)
        head = file.read(8)
        place += 12 + int.from_bytes(head[:4], 'big')
        if head[4:] == b'IEND':
            break  # anything may follow the image
    return place <= end


class _ChangesValues(ValueError):
    """A label map in a format that does not hold the values of the classes as they are."""


def _refuse_what_changes_values(path, data):
    why = None
    if data[:3] == b'\xff\xd8\xff':
        why = 'is a JPEG, which changes the values of classes'
    elif data[:8] == _PNG and data[24:26] in (b'\x02\x00', b'\x04\x00'):
        why = f'is a PNG of {data[24]} bits of grey, which decoders stretch over 0 to 255'
    if why:
        raise _ChangesValues(f'label map {path!r} {why}: save it as PNG of 8 or 16 bits')


def _too_large(what, path, error):
    count = re.search(r'\d+', str(error))[0]
    limit = 2 * Image.MAX_IMAGE_PIXELS
    return (
        f'{what} {path!r} has {int(count):,} pixels, at most {limit:,} are accepted: cut it into '
        'tiles, or raise PIL.Image.MAX_IMAGE_PIXELS'
    )
