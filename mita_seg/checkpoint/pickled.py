"""What a checkpoint's pickle may hold beyond torch's own list, and how it is built.

Torch's safe unpickler lets a file call whatever is allowed with arguments of its choice. So what
could do harm is never allowed itself: a stand-in takes its name, checks what the file gives it, and
:func:`settle` puts the real value in its place once the file is read.
"""

import argparse
import datetime
import pickle
import re
from collections import OrderedDict

import numpy as np

from .history import history, read_history
from .structure import plain_metadata

# The attributes that MMEngine's checkpoints refer to: statistics of a log buffer, and the function
# that the state of a OneCycleLR holds.
_STATISTICS = ('current', 'max', 'mean', 'min')
_ANNEALING = ('_annealing_cos', '_annealing_linear')

# Numbers and text. Neither objects, which are addresses in memory, nor records, which may hold
# objects.
_DTYPE = re.compile(r'[?bBhHiIlLqQefd]|[biufc]\d{1,2}|[SU]\d{1,9}')


def refuse(name):
    """Raise the error that marks an object as not allowed."""
    raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {name}')


class _Mention:
    """Stands for a class that a file may name, but neither call nor look into."""

    def __init__(self, name):
        self.name = name

    def __call__(self, *_):
        refuse(self.name)


class _DType:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code, align=False, copy=False):
        if not (isinstance(code, str) and _DTYPE.fullmatch(code)):
            refuse(f'numpy.dtype({code!r})')
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        """Take over the byte order; what else a file may say follows from the type."""
        order, subtype, names, fields = state[1:5]
        if (subtype, names, fields) != (None, None, None):
            refuse('numpy.dtype of records')
        if order in ('<', '>'):
            self.dtype = self.dtype.newbyteorder(order)

    def array(self, shape, data, fortran=False):
        """An array of its own over a copy of bytes."""
        expected = self.dtype.itemsize * int(np.prod(shape, dtype=object))
        if not isinstance(data, bytes) or len(data) != expected:
            raise ValueError('an array holds other bytes than its shape says')
        order = 'F' if fortran else 'C'
        return np.ndarray(shape, self.dtype, data, order=order).copy(order)


class _Array:
    """Stands for ``numpy.ndarray``, which only ``_reconstruct`` may make."""

    value = None

    def __init__(self, *_):
        refuse('numpy.ndarray')

    def __setstate__(self, state):
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _DType):
            refuse('numpy.ndarray of unknown type')
        self.value = dtype.array(shape, data, fortran)


def _reconstruct(kind, shape, code):
    if kind is not _Array:
        refuse('a subclass of numpy.ndarray')
    return _Array.__new__(_Array)


def _scalar(dtype, data):
    if not isinstance(dtype, _DType):
        refuse('a numpy scalar of unknown type')
    return dtype.array((), data)[()]


class _History:
    """Stands for MMEngine's HistoryBuffer, whose state could change those of the whole process."""

    def __init__(self, log_history=(), count_history=(), max_length=1_000_000):
        self.logs, self.counts, self.max_length = log_history, count_history, max_length

    def __setstate__(self, state):
        self.__init__(state['_log_history'], state['_count_history'], state['max_length'])

    def settle(self, seen):
        """The buffer; a dict where MMEngine is not installed."""
        return history(settle(self.logs, seen), settle(self.counts, seen), self.max_length)


_BUFFER = 'mmengine.logging.history_buffer.HistoryBuffer'
_ONE_CYCLE = 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'
_one_cycle = _Mention(_ONE_CYCLE)


def _attribute(owner, name):
    """In place of Python's own getattr, which would hand out anything."""
    if owner is _History and name in _STATISTICS:
        return None  # every HistoryBuffer has them
    if owner is _one_cycle and name in _ANNEALING:
        from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

        return getattr(OneCycleParamScheduler, name)
    return refuse(f'getattr:{name}')


def _no_bytes():
    """The second protocol writes ``b''`` as a call of ``bytes``."""
    return b''


def _default_dict(factory=None):
    return {}


def _config_dict(entries=()):
    return dict(entries)


def allowed_globals():
    """For ``torch.serialization.safe_globals``.

    Numpy values, MMEngine's log buffers and configs, options of ``argparse``, dates and Python's
    own containers.

    Returns:
        list: Classes and functions, or pairs of one and the name that it answers to.
    """
    allowed = [argparse.Namespace, slice, range, frozenset]
    allowed += [datetime.datetime, datetime.date, datetime.time]
    allowed += [datetime.timedelta, datetime.timezone]
    stand_ins = {
        'numpy.ndarray': _Array,
        'numpy.dtype': _DType,
        'builtins.getattr': _attribute,
        'builtins.bytes': _no_bytes,
        'collections.defaultdict': _default_dict,
        'mmengine.config.config.ConfigDict': _config_dict,
        _BUFFER: _History,
        _ONE_CYCLE: _one_cycle,
    }
    # The name in a checkpoint depends on the numpy that wrote it.
    for package in ('numpy.core', 'numpy._core'):
        stand_ins[f'{package}.multiarray._reconstruct'] = _reconstruct
        stand_ins[f'{package}.multiarray.scalar'] = _scalar
    # What makes the default of a defaultdict.
    for kind in (bool, int, float, str, list, tuple, dict):
        name = f'builtins.{kind.__name__}'
        stand_ins[name] = _Mention(name)
    return allowed + [(stand_in, name) for name, stand_in in stand_ins.items()]


def _settle_attributes(ordered, seen):
    """Leave an OrderedDict the versions of modules; a file could name its methods otherwise."""
    attributes = dict(vars(ordered))
    vars(ordered).clear()
    if '_metadata' in attributes:
        metadata = settle(attributes['_metadata'], seen)
        vars(ordered)['_metadata'] = OrderedDict(plain_metadata(metadata))


def settle(value, seen=None):
    """Put real values in the place of stand-ins.

    Args:
        value: What the unpickler returned; dicts and lists in it are changed in place.
        seen (dict, optional): The containers met so far, by id.

    Returns:
        The value.
    """
    seen = {} if seen is None else seen
    if isinstance(value, _Array):
        return value.value
    if id(value) in seen:
        return seen[id(value)][0]
    if isinstance(value, _History):
        result = value.settle(seen)
    elif isinstance(value, tuple):
        parts = [settle(part, seen) for part in value]
        unchanged = all(new is old for new, old in zip(parts, value, strict=True))
        result = value if unchanged else tuple(parts)
    else:
        result = value
        seen[id(value)] = (result, value)  # before its content, which may hold it
        if isinstance(value, dict) and (found := read_history(value)) is not None:
            result = found
        elif isinstance(value, dict):
            if isinstance(value, OrderedDict):
                _settle_attributes(value, seen)
            value.update((key, settle(entry, seen)) for key, entry in list(value.items()))
        elif isinstance(value, list):
            value[:] = [settle(entry, seen) for entry in value]
        elif isinstance(value, argparse.Namespace):
            settle(vars(value), seen)
    # The value is kept as well: its id must not be given to another object.
    seen[id(value)] = (result, value)
    return result
