"""Where the weights of a checkpoint are, and whose layout they have."""

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping

from torch import Tensor

# Keys under which checkpoints keep the weights: MMEngine and Lightning; DeiT; DINO and DINOv2,
# whose exponential average, the teacher, is what they evaluate.
_CONTAINERS = ('state_dict', 'model', 'teacher')

# Layout -> how one of its names is recognised, without wrappers' prefixes; the first that fits.
_MARKS = {
    'augreg-npz': r'^embedding/kernel$',
    'mmseg': r'^(decode_head\.)?layers\.\d+\.attn\.attn\.(in|out)_proj',
    'mita_seg': r'^(decode_head\.)?layers\.\d+\.(ln1|attn)\.',
    'dinov2': r'^(mask_token|register_tokens)$',
    'mita-deit': r'^blocks\.\d+\.attn\.(qkvg|dwc)\.',
    'timm': r'^blocks\.\d+\.',
}
# The same names as timm's: only the rest of the checkpoint tells them apart.
_LIKE_TIMM = ('timm', 'torch-deit', 'dino', 'dinov2', 'mita-deit')

SOURCES = ('timm', 'torch-deit', 'augreg-npz', 'dino', 'dinov2', 'mita-deit', 'mmseg', 'mita_seg')


def find_weights(checkpoint: Mapping) -> dict[str, Tensor]:
    """Take the weights out of a checkpoint.

    Args:
        checkpoint: Weights by name, alone or as ``state_dict``, ``model`` or ``teacher``.

    Returns:
        The tensors by name, as the file names them, with the metadata of a state dict.
    """
    for key in _CONTAINERS:
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
    weights = OrderedDict(
        (n, value) for n, value in checkpoint.items() if isinstance(value, Tensor)
    )
    vars(weights)['_metadata'] = getattr(checkpoint, '_metadata', OrderedDict())
    return weights


def find_other_entries(checkpoint: Mapping) -> list[str]:
    """Names of the entries of a checkpoint other than the weights and MMEngine's ``meta``."""
    others = []
    for key in _CONTAINERS:
        if isinstance(checkpoint.get(key), dict):
            others += [str(name) for name in checkpoint if name not in (key, 'meta')]
            checkpoint = checkpoint[key]
    return others + [str(n) for n, value in checkpoint.items() if not isinstance(value, Tensor)]


def bare_name(name: str, source: str) -> str:
    """A name in the file without what wrappers put before it.

    That is ``module.`` (DistributedDataParallel) and, in the layouts that have no segmentors, the
    ``backbone.`` of DINO's training checkpoints.
    """
    name = name.removeprefix('module.')
    return name.removeprefix('backbone.') if source in _LIKE_TIMM else name


def detect_source(checkpoint: Mapping) -> str | None:
    """Tell the layout of a checkpoint.

    Args:
        checkpoint: As for :func:`find_weights`.

    Returns:
        One of ``SOURCES``; None if it is none of them.
    """
    layout = _layout([bare_name(name, 'timm') for name in find_weights(checkpoint)])
    if layout != 'timm':
        return layout
    if 'teacher' in checkpoint:
        return 'dino'
    if 'model' in checkpoint:
        # MiTA-DeiT without DWC has DeiT's names; its options tell.
        return 'mita-deit' if hasattr(checkpoint.get('args'), 'kv_topk') else 'torch-deit'
    return 'timm'


def check_source(checkpoint: Mapping, source: str) -> str:
    """Settle the layout of a checkpoint.

    Args:
        checkpoint: As for :func:`find_weights`.
        source: ``'auto'``, or one of ``SOURCES``.

    Returns:
        One of ``SOURCES``.

    Raises:
        ValueError: `source` is not one of them, or not what the names look like.
    """
    if source not in ('auto', *SOURCES):
        raise ValueError(f'source must be auto or one of {", ".join(SOURCES)}, got {source!r}')
    found = detect_source(checkpoint)
    if found is None:
        names = list(find_weights(checkpoint)) or list(checkpoint)
        raise ValueError(
            f'the layout is none of {", ".join(SOURCES)}; the first names are '
            f'{", ".join(map(str, names[:4])) or "missing: it is empty"}'
        )
    if source == 'auto':
        return found
    if source != found and not (source in _LIKE_TIMM and found in _LIKE_TIMM):
        raise ValueError(f'the names are not those of {source} but those of {found}')
    return source


def _layout(names: Collection[str]) -> str | None:
    for layout, mark in _MARKS.items():
        if any(re.match(mark, name) for name in names):
            return layout
    return None
