"""MMSegmentation's loading transforms with errors that name the file."""

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

IGNORE = 255


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """``LoadImageFromFile`` whose errors name the image.

    Raises:
        FileNotFoundError: There is no such image.
        ValueError: The file cannot be decoded.
    """

    def transform(self, results):
        path = results['img_path']
        try:
            return super().transform(results)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'image {path!r} does not exist') from error
        # What a decoder raises differs between back ends and releases.
        except Exception as error:
            raise ValueError(
                f'image {path!r} cannot be decoded: truncated, or not an image'
            ) from error


@TRANSFORMS.register_module()
class LoadCheckedLabels(LoadAnnotations):
    """``LoadAnnotations`` that refuses labels outside the classes.

    The values are checked as they stand in the file, before ``reduce_zero_label`` and ``label_map``
    are applied. Samples without ``seg_map_path`` pass through, so that one pipeline serves both
    evaluation and ``mmseg.apis``.

    Args:
        num_classes (int): Number of classes in the label files, the ignored one not counted.
            Accepted are ``0 .. num_classes - 1`` (``0 .. num_classes`` with ``reduce_zero_label``)
            and 255.
        backend_args (dict, optional): As in ``LoadAnnotations``.
        imdecode_backend (str): As in ``LoadAnnotations``.

    Raises:
        FileNotFoundError: There is no such label map.
        ValueError: The label map cannot be decoded, is not of the image's size or holds values that
            are not accepted; they are listed.
    """

    def __init__(self, num_classes, backend_args=None, imdecode_backend='pillow'):
        super().__init__(backend_args=backend_args, imdecode_backend=imdecode_backend)
        if isinstance(num_classes, bool) or not isinstance(num_classes, int):
            raise TypeError(f'num_classes must be an integer, got {num_classes!r}')
        if not 1 <= num_classes < IGNORE:
            raise ValueError(f'num_classes must be in 1..{IGNORE - 1}, got {num_classes}')
        self.num_classes = num_classes

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
                f'its image {size[1]}x{size[0]}'
            )
        self._check_range(labels, path, self.num_classes - 1 + reduce_zero)
        lookup = self._lookup(reduce_zero, results.get('label_map'))
        results['gt_seg_map'] = lookup[labels]
        results['seg_fields'].append('gt_seg_map')

    def _read(self, path):
        try:
            data = fileio.get(path, backend_args=self.backend_args)
            labels = mmcv.imfrombytes(data, flag='unchanged', backend=self.imdecode_backend)
            labels = np.asarray(labels).squeeze()
            # One-bit files decode to booleans, which would index as a mask.
            labels = labels.astype(np.uint8) if labels.dtype == bool else labels
        except FileNotFoundError as error:
            raise FileNotFoundError(f'label map {path!r} does not exist') from error
        except Exception as error:
            raise ValueError(
                f'label map {path!r} cannot be decoded: truncated, or not an image'
            ) from error
        if labels.ndim != 2:
            raise ValueError(
                f'label map {path!r} has shape {labels.shape}; expected one channel of classes'
            )
        return labels

    @staticmethod
    def _check_range(labels, path, highest):
        outside = (labels < 0) | ((labels > highest) & (labels != IGNORE))
        if outside.any():
            values = np.unique(labels[outside])
            shown = ', '.join(map(str, values[:8])) + (', ...' if len(values) > 8 else '')
            raise ValueError(
                f'label map {path!r} holds {shown}; accepted: 0..{highest} and {IGNORE} (ignored)'
            )

    @staticmethod
    def _lookup(reduce_zero, label_map):
        """File value -> training label, `[256]` uint8."""
        table = np.arange(256)
        if reduce_zero:
            table = np.where((table == 0) | (table == IGNORE), IGNORE, table - 1)
        if label_map:
            table = np.array([label_map.get(value, value) for value in table.tolist()])
        return table.astype(np.uint8)
