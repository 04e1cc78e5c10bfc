"""From a config and a checkpoint to a file that was compared with the model."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from mmengine.config import Config

from mita_seg.utils.files import taking_place

from .check import Comparison, check_file
from .description import describe
from .formats import FORMATS
from .model import WholeImage, build_exportable, expected_output
from .program import export_program

_STEP = 32  # pixels, of backbones that have no patches


class Export(NamedTuple):
    """What was compared."""

    comparison: Comparison
    tried: tuple[tuple[int, ...], ...]  # shapes of the images, [B, C, H, W]


def export_segmentor(
    cfg: Config,
    checkpoint: str,
    path: str,
    *,
    format: str = 'onnx',
    size: Sequence[int] | None = None,
    dynamic: bool = False,
    labels: bool = False,
) -> Export:
    """Export a trained segmentor; the file appears only if it computes what the model does.

    Args:
        cfg: The config; its backbone's pretrained weights are left out of it.
        checkpoint: File or address of the weights.
        path: The file to write.
        format: A name of :data:`FORMATS`.
        size: Height and width of the images, pixels; the crops of the config by default.
        dynamic: Take images of every size, in whole patches, from two patches a side on.
        labels: Labels in place of scores, see :class:`WholeImage`.

    Returns:
        What the comparison found.

    Raises:
        FileNotFoundError, ValueError: The checkpoint cannot be read or does not fit, the model
            cannot be exported, or the file computes something else.
        OSError: The file cannot be written.
    """
    size = tuple(size or _size_of_crops(cfg))
    if min(size) < 1:
        raise ValueError(f'size must be two positive ints, height and width, got {size}')
    segmentor = build_exportable(cfg, checkpoint)
    model = WholeImage(segmentor, labels=labels)
    channels = cfg.model.backbone.get('in_channels', 3)
    step = getattr(segmentor.backbone, 'patch_size', _STEP) if dynamic else None
    if dynamic:
        size = tuple(max(side // step, 2) * step for side in size)
    program = export_program(model, channels, size, step)

    tried = [(1, channels, *size), (3, channels, *size)]
    if dynamic:
        height, width = size[0] + step, max(size[1] // step // 2, 2) * step
        tried = [tried[0], (3, channels, height, width), (1, channels, 2 * step, 2 * step)]
    kind = FORMATS[format]
    temporary = f'{path}.{os.getpid()}.tmp'
    with taking_place(temporary, path):
        kind.write(program, temporary, describe(cfg, checkpoint, size, step, labels))
        comparison = check_file(
            kind.open(temporary),
            lambda images: expected_output(segmentor, images, labels),
            tried,
            chooses=any(getattr(module, 'topk', 0) for module in segmentor.modules()),
        )
    return Export(comparison, tuple(tried))


def _size_of_crops(cfg: Config) -> tuple[int, int]:
    """Height and width, pixels, that the model of a config was trained on."""
    places = (('test_cfg', 'crop_size'), ('data_preprocessor', 'size'), ('backbone', 'img_size'))
    for part, key in places:
        size = (cfg.model.get(part) or {}).get(key)
        if size is not None:
            return (size, size) if isinstance(size, int) else (size[0], size[1])
    raise ValueError('the config does not say the size of its crops: give the size')
