"""Making what is to be written into a checkpoint plain data, so that it can be read again."""

import argparse
import datetime
import enum
from collections import OrderedDict, deque
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType

from .history import plain_history

# Without these a training cannot go on; anything else is left out rather than stop it.
_NEEDED = ('state_dict', 'optimizer')
_FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType)
_BASES = (bool, int, float, complex, str, bytes)
_KEPT = (range, slice, bytearray, datetime.datetime, datetime.date, datetime.time)
_KEPT += (datetime.timedelta, datetime.timezone)


class _NotPlainError(Exception):
    """A value that no conversion makes plain."""

    def __init__(self, where, value):
        super().__init__(f'{where} is a {type(value).__module__}.{type(value).__qualname__}')
        self.value = value


def plain_checkpoint(checkpoint, warn):
    """Replace what is no plain data in a checkpoint of MMEngine.

    Containers of other kinds become dicts, lists and tuples, paths become text, numpy scalars and
    enumerations become numbers, log buffers become tensors: ``torch.load`` reads what MMEngine
    keeps by itself as it is. What cannot be converted is left out, the function in the state of a
    OneCycleLR for example, which the scheduler has again when it is built.

    Args:
        checkpoint (dict): The checkpoint; not changed.
        warn (Callable[[str], None]): Told in a sentence what is left out, functions excepted.

    Returns:
        dict: What :func:`mita_seg.checkpoint.load_checkpoint_safely` reads.

    Raises:
        ValueError: A weight or a state of the optimizer is no plain data.
    """
    plain = {}
    for name, value in checkpoint.items():
        try:
            plain[name] = _plain(value, str(name), None if name in _NEEDED else warn)
        except _NotPlainError as error:
            if name in _NEEDED:
                raise ValueError(
                    f'{error}, and a checkpoint that holds one cannot be read safely'
                ) from error
            warn(f'left out of the checkpoint: {error}')
    return plain


def _plain(value, where, warn):
    import numpy as np
    import torch

    if isinstance(value, (torch.Tensor, torch.dtype, torch.device, torch.Size)):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, enum.Enum):
        value = value.value
    for base in _BASES:
        if isinstance(value, base):
            return value if type(value) is base else base(value)
    if value is None or type(value) in _KEPT:
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind in 'biufcSU':
            return np.asarray(value)
        value = value.tolist()
    if isinstance(value, (list, deque)):
        return [_plain(part, f'{where}[{i}]', warn) for i, part in enumerate(value)]
    if isinstance(value, tuple):
        return tuple(_plain(part, f'{where}[{i}]', warn) for i, part in enumerate(value))
    if isinstance(value, (set, frozenset)):
        kind = set if isinstance(value, set) else frozenset
        return kind(_plain(part, f'{where}{{}}', warn) for part in value)
    if isinstance(value, argparse.Namespace):
        return argparse.Namespace(**_plain(vars(value), where, warn))
    return _plain_of_mmengine(value, where, warn)


def _plain_of_mmengine(value, where, warn):
    from mmengine.config import Config
    from mmengine.logging import HistoryBuffer

    if isinstance(value, Config):
        value = value.to_dict()
    if isinstance(value, dict):
        return _plain_dict(value, where, warn)
    if isinstance(value, HistoryBuffer):
        return plain_history(*value.data, value.max_length)
    raise _NotPlainError(where, value)


def _plain_dict(value, where, warn):
    ordered = isinstance(value, OrderedDict)
    plain = OrderedDict() if ordered else {}
    for key, entry in value.items():
        name = f'{where}.{key}'
        try:
            plain[_plain(key, name, None)] = _plain(entry, name, warn)
        except _NotPlainError as error:
            if warn is None:
                raise
            if not isinstance(error.value, _FUNCTIONS):
                warn(f'left out of the checkpoint: {error}')
    if ordered:
        plain.__dict__.update(value.__dict__)  # the versions of modules, in a state_dict
    return plain
