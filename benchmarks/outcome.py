"""How a measurement ended."""

import sys
import traceback
from contextlib import contextmanager

import torch

OK = 'ok'
WRONG = 'wrong'
UNAVAILABLE = 'unavailable'
OUT_OF_MEMORY = 'out of memory'
FAILED = 'failed'
# What scaled_dot_product_attention says when the only backend allowed cannot run.
_NO_BACKEND = ('No available kernel', 'No viable backend')


class WrongResult(Exception):
    """A function does not compute what it should."""


@contextmanager
def noting_outcome(row):
    """Note in a row why its function drops out; the others are measured all the same.

    Args:
        row (dict): Gets ``status`` and ``reason``.
    """
    try:
        yield
    except WrongResult as error:
        _note(row, WRONG, error)
    except NotImplementedError as error:
        _note(row, UNAVAILABLE, error)
    # Whatever else a backend raises: compilers and drivers have exceptions of their own.
    except Exception as error:
        # Leaving a CUDA graph's capture may raise again on top of the allocator's error.
        if any(isinstance(e, torch.OutOfMemoryError) for e in (error, error.__context__)):
            _note(row, OUT_OF_MEMORY, error)
        elif any(words in str(error) for words in _NO_BACKEND):
            _note(row, UNAVAILABLE, error)
        else:
            traceback.print_exc(file=sys.stderr)
            _note(row, FAILED, f'{type(error).__name__}: {error}')


def _note(row, status, reason):
    lines = str(reason).strip().splitlines() or ['']
    row.update(status=status, reason=lines[0])
