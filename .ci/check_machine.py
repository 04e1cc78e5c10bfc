"""Names, in one sentence, what this machine lacks for `make demo` and `make test`.

Runs on any Python 3, so that an old one can be told apart from a missing one.
"""

import ctypes
import sys


def missing():
    """Yields what is missing and how to get it."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        yield 'Python 3.10 to 3.13 (this is {}.{}; name another with PYTHON=...)'.format(
            *sys.version_info[:2]
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        yield 'the venv module (Debian and Ubuntu: apt install python3-venv)'
    if sys.platform == 'linux':  # what OpenCV's wheels link to
        for library, package in (
            ('libGL.so.1', 'libgl1'),
            ('libgthread-2.0.so.0', 'libglib2.0-0'),
        ):
            try:
                ctypes.CDLL(library)
            except OSError:
                yield '{} (Debian and Ubuntu: apt install {})'.format(library, package)  # noqa: UP032


absent = list(missing())
if absent:
    sys.exit('This machine lacks ' + ' and '.join(absent) + '.')
