"""What a user of an exported file has to know."""

import json

import torch
from mmengine.config import Config

from mita_seg import __version__
from mita_seg.checkpoint import load_checkpoint_safely


def describe(
    cfg: Config, checkpoint: str, size: tuple[int, int], step: int | None, labels: bool
) -> dict[str, str]:
    """Describe input and output, as text by name, for the file's metadata.

    Args:
        cfg: The config.
        checkpoint: File or address of the weights.
        size: Height and width of the images.
        step: Of what the sizes are multiples, where they may vary.
        labels: Whether labels are returned.
    """
    settings = cfg.model.get('data_preprocessor') or {}
    order = 'as the pipeline of the config loads them'
    if settings.get('bgr_to_rgb'):
        order = 'RGB'
    elif settings.get('rgb_to_bgr'):
        order = 'BGR'
    scores = (
        'scores: float32 [batch, classes, height, width], before softmax (sigmoid of one class)'
    )
    described = {
        'producer': f'mita_seg {__version__}, torch {torch.__version__}',
        'input': 'images: float32 [batch, channels, height, width], values 0 to 255',
        'channels': order,
        'normalisation': 'inside: (images - mean) / std, as in the config, is part of the file',
        'sizes': f'{size[0]}x{size[1]} pixels, any batch'
        if step is None
        else f'height and width multiples of {step} pixels from {2 * step} on, any batch',
        'output': 'labels: [batch, height, width], indices of classes' if labels else scores,
        'windows': 'the whole image is one window',
    }
    test_cfg = cfg.model.get('test_cfg') or {}
    if test_cfg.get('mode') == 'slide':
        described['windows'] += (
            f'; the config evaluates windows of {list(test_cfg["crop_size"])} pixels in steps of '
            f'{list(test_cfg["stride"])}'
        )
    meta = load_checkpoint_safely(checkpoint).get('meta')
    data = meta.get('dataset_meta') if isinstance(meta, dict) else None
    classes = data.get('classes') if isinstance(data, dict) else None
    names = [str(name) for name in classes] if isinstance(classes, list | tuple) else []
    return {**described, 'classes': json.dumps(names)}
