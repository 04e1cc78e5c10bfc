"""The error of a full disk, for tests that have none."""

import errno
import os


def full(name=None):
    """As the system raises it: a failed write names no file, opening one does."""
    named = () if name is None else (str(name),)
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *named)
