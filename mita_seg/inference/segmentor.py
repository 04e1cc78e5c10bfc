"""A trained model that takes images and gives label maps."""

import os

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image

from mita_seg.models.trained_model import build_trained
from mita_seg.utils.cli import load_config

from .classes import find_classes
from .pipeline import build_pipeline
from .windows import batch_windows, window_boxes


def load_segmentor(config, checkpoint, device=None, *, tta=False, batch_size=4, cfg_options=None):
    """Load a trained model.

    Args:
        config (str | os.PathLike): The config it was trained with.
        checkpoint (str | os.PathLike): Its checkpoint, a file or an ``http(s)://`` address; loaded
            without running code that it may hold.
        device (str | torch.device, optional): By default the first GPU, or else the CPU.
        tta (bool): Whether to predict with the config's test-time augmentation.
        batch_size (int): Images of one size, or sliding windows, in a pass.
        cfg_options (dict, optional): Settings of the config to be changed, ``{'a.b': value}``.

    Returns:
        Segmentor: The model, to be called on images. A checkpoint that was trained with another
        attention than the config's is warned of.

    Raises:
        FileNotFoundError: There is no such config or checkpoint.
        TypeError, ValueError: The config is not valid or lacks what is needed here; the checkpoint
            is damaged, refused or does not fit; there is no such device; `batch_size` is below 1.
    """
    device = _find_device(device)
    if batch_size < 1:
        raise ValueError(f'batch_size must be at least 1, got {batch_size}')
    cfg = load_config(os.fspath(config), cfg_options)
    if tta and not ('tta_pipeline' in cfg and 'tta_model' in cfg):
        raise ValueError('tta needs tta_pipeline and tta_model in the config')
    init_default_scope(cfg.get('default_scope', 'mmseg'))  # where the transforms are looked up
    load, prepare = build_pipeline(cfg, tta)
    model, content = build_trained(cfg, os.fspath(checkpoint))
    model = revert_sync_batchnorm(model)
    classes = find_classes(model, content.get('meta') or {}, cfg)
    slides = batch_windows(model, batch_size)
    window = (model.test_cfg.crop_size, model.test_cfg.stride) if slides else None
    if tta:
        model = MODELS.build({**cfg.tta_model, 'module': model})
    model.to(device)
    model.eval()  # apart: train() of stock backbones returns nothing
    return Segmentor(model, load, prepare, classes, batch_size, window)


class Segmentor:
    """Label maps of images. Made by :func:`load_segmentor`.

    An image is a path, an array `[h, w, 3]` (uint8, channels blue, green, red as ``cv2.imread`` and
    MMSegmentation have them) or `[h, w]` (grey), or an image of Pillow. Files are read as their
    pixels are stored, without their EXIF orientation, as in training.

    Attributes:
        classes (tuple[str, ...]): Names of the classes.
        palette (ndarray): Their colours, `[K, 3]`, uint8, RGB.
        first_value (int): What label files of the training data set hold for the first class: 1
            where their 0 is ignored, else 0.
        model (nn.Module): The model.
    """

    def __init__(self, model, load, prepare, classes, batch_size, window=None):
        self.model = model
        self.classes = classes.names
        self.palette = classes.palette
        self.first_value = classes.first_value
        self._load, self._prepare = load, prepare
        self._batch_size, self._window = batch_size, window

    def __call__(self, images):
        """Predict one image, or each of a list.

        Args:
            images: An image, or a list or tuple of images.

        Returns:
            ndarray | list[ndarray]: The index in `classes` of each pixel, `[h, w]` of the image's
            own size, uint8, or int16 with more than 255 classes; of a list, a list.

        Raises:
            FileNotFoundError: There is no such file.
            TypeError, ValueError: It is no image, or cannot be decoded.
        """
        several = isinstance(images, (list, tuple))
        maps = self.stream((None, image) for image in (images if several else [images]))
        maps = [labels for _, _, labels in maps]
        return maps if several else maps[0]

    def read(self, image):
        """Read an image as the model's pipeline does.

        Args:
            image: As described above.

        Returns:
            ndarray: `[h, w, C]`; colours run blue, green, red.

        Raises:
            FileNotFoundError: There is no such file.
            TypeError, ValueError: It is no image, or cannot be decoded.
        """
        if isinstance(image, (str, os.PathLike)):
            return self._load({'img_path': os.fspath(image)})['img']
        if isinstance(image, Image.Image):
            image = _pixels_of_pillow(image)
        if not isinstance(image, np.ndarray):
            raise TypeError(
                'an image must be a path, an array or an image of Pillow, got '
                f'{type(image).__name__}'
            )
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
            raise ValueError(
                'an image must be an array [h, w, 3] or [h, w] of uint8, got '
                f'{list(image.shape)} of {image.dtype}'
            )
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        return image.astype(np.float32) if getattr(self._load, 'to_float32', False) else image

    def prepare(self, image):
        """Read an image and pass it through the rest of the pipeline.

        Args:
            image: As described above.

        Returns:
            tuple[ndarray, dict]: The image as :meth:`read` gives it, and what the model's
            preprocessor takes: ``inputs`` and ``data_samples``.

        Raises:
            FileNotFoundError: There is no such file.
            TypeError, ValueError: It is no image, or cannot be decoded.
        """
        pixels = self.read(image)
        sample = self._prepare(
            {
                'img': pixels,
                'img_path': os.fspath(image) if _is_path(image) else '',
                'img_shape': pixels.shape[:2],
                'ori_shape': pixels.shape[:2],
            }
        )
        return pixels, sample

    def stream(self, images, on_bad=None):
        """Predict images one after another, without holding more than a batch of them.

        Args:
            images (Iterable[tuple]): Pairs of anything and an image.
            on_bad (Callable, optional): Called with that thing and the error for images that cannot
                be read or prepared, which are left out; without it the error is raised.

        Yields:
            tuple: That thing, the image as :meth:`read` gives it, and its label map, in the order
            given.
        """
        group, shape = [], None
        for key, image in images:
            try:
                pixels, sample = self.prepare(image)
            # Whatever a transform raises, it is of this image.
            except Exception as error:
                if on_bad is None:
                    raise
                on_bad(key, error)
                continue
            new_shape = (pixels.shape, *(each.shape for each in _as_list(sample['inputs'])))
            if group and (new_shape != shape or len(group) >= self._images_at_once(shape)):
                yield from self._predict(group)
                group = []
            group.append((key, pixels, sample))
            shape = new_shape
        if group:
            yield from self._predict(group)

    def _images_at_once(self, shape):
        """How many images fill a batch, of windows where the model slides one."""
        if self._window is None:
            return self._batch_size
        windows = max(len(window_boxes(inputs[-2:], *self._window)) for inputs in shape[1:])
        return max(1, self._batch_size // windows)

    @torch.no_grad()
    def _predict(self, group):
        results = self.model.test_step(pseudo_collate([sample for _, _, sample in group]))
        small = len(self.classes) <= 255
        for (key, pixels, _), result in zip(group, results, strict=True):
            labels = result.pred_sem_seg.data.reshape(pixels.shape[:2])
            yield key, pixels, labels.cpu().numpy().astype(np.uint8 if small else np.int16)


def _pixels_of_pillow(image):
    """Pixels `[h, w, 3]`, uint8; blue, green, red. Of 16 bits the upper eight, as of files."""
    if image.mode.startswith('I;16'):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ('I', 'F'):
        raise ValueError(f'an image of Pillow must have 8 or 16 bits a channel, got {image.mode!r}')
    return np.asarray(image.convert('RGB'))[..., ::-1]


def _find_device(device):
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        # Not every name that torch knows is here.
        return torch.zeros(0, device=device).device
    except Exception as error:
        reason = str(error).split('\n')[0]
        raise ValueError(f'device {str(device)!r} cannot be used: {reason}') from error


def _is_path(image):
    return isinstance(image, (str, os.PathLike))


def _as_list(inputs):
    return inputs if isinstance(inputs, (list, tuple)) else [inputs]
