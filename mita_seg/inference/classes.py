"""Names, colours and label values of a model's classes."""

import inspect
from dataclasses import dataclass

import numpy as np
from mmseg.registry import DATASETS

from mita_seg.datasets.label_need import class_of
from mita_seg.utils.cli import printable
from mita_seg.utils.palette import distinct_colours


@dataclass(frozen=True)
class Classes:
    """The classes that a model tells apart.

    Attributes:
        names (tuple[str, ...]): Their names.
        palette (ndarray): `[K, 3]`, uint8, RGB.
        first_value (int): Value of the first class in label files: 1 for data sets whose 0 is
            ignored (``reduce_zero_label``), else 0.
    """

    names: tuple
    palette: np.ndarray
    first_value: int


def find_classes(model, meta, cfg):
    """Collect what checkpoint and config say of the classes.

    Args:
        model (BaseSegmentor): The model, which knows how many there are.
        meta (dict): ``meta`` of its checkpoint. Its ``dataset_meta`` counts, or what
            MMSegmentation 0.x wrote there, then the data set of the config's tests.
        cfg (Config): The config.

    Returns:
        Classes: As many as the model has; names and colours that are nowhere are made up.
    """
    of_config = _dataset_meta(cfg)
    of_checkpoint = meta.get('dataset_meta')
    if not isinstance(of_checkpoint, dict):
        of_checkpoint = {key.lower(): meta.get(key) for key in ('CLASSES', 'PALETTE')}
    known = {
        **of_config,
        **{key: value for key, value in of_checkpoint.items() if value is not None},
    }
    names = [printable(str(name)) for name in _list(known.get('classes'))]
    count = getattr(model, 'num_classes', None) or len(names) or 256
    count = 2 if count == 1 else count  # one channel tells two classes apart
    names = names[:count] + [f'class {index}' for index in range(len(names), count)]
    palette = distinct_colours(count)
    given = _colours(known.get('palette'))[:count]
    palette[: len(given)] = given
    return Classes(tuple(names), palette, int(bool(known.get('reduce_zero_label'))))


def _list(value):
    """A list, tuple or array as a list; of anything else, which a file may hold, an empty one."""
    return list(value) if isinstance(value, list | tuple | np.ndarray) else []


def _colours(value):
    """Colours `[K, 3]`, uint8; none where the value, which a file may hold, is of another kind."""
    colours = [_list(colour) for colour in _list(value)]
    sound = all(
        len(colour) == 3 and all(isinstance(part, int | np.integer) for part in colour)
        for colour in colours
    )
    return np.array(colours if sound else [], np.int64).reshape(-1, 3).clip(0, 255).astype(np.uint8)


def _dataset_meta(cfg):
    """What the data set that a config tests with says, without reading its files."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while inner := (dataset.get('datasets') or [None])[0] or dataset.get('dataset'):
        dataset = inner
    kind = class_of(dataset, DATASETS) if dataset else None
    if kind is None:
        return {}
    argument = inspect.signature(kind).parameters.get('reduce_zero_label')
    default = False if argument is None else argument.default
    return {
        'reduce_zero_label': dataset.get('reduce_zero_label', default),
        **getattr(kind, 'METAINFO', {}),
        **(dataset.get('metainfo') or {}),
    }
