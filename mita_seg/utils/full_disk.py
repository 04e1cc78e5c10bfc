"""Errors of a full disk: which file they are of, and a sentence that says so."""

import contextlib
import errno
import os
import traceback

_REASONS = {
    errno.ENOSPC: 'no space left on the disk',
    errno.EDQUOT: 'no space left in the disk quota',
}


@contextlib.contextmanager
def naming(path, temporary=None):
    """Let the error of a full disk name a file; that of a failed write names none.

    Args:
        path (str | os.PathLike): What is written in the block.
        temporary (str | os.PathLike, optional): The name that it has until then.
    """
    try:
        yield
    except OSError as error:
        unknown = error.filename is None or error.filename == os.fspath(temporary or '')
        if error.errno in _REASONS and unknown:
            error.filename = os.fspath(path)
        raise


def find_full_disk(error):
    """Find the error of a full disk in an error, or in what that comes from.

    Args:
        error (BaseException | None): What was raised.

    Returns:
        OSError | None: The error of the disk.
    """
    seen = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _REASONS:
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def describe_full_disk(error):
    """A sentence for what :func:`find_full_disk` found; the line of code for want of a name."""
    sentence = f'cannot be written: {_REASONS[error.errno]}'
    if error.filename is not None:
        return f'{str(error.filename)!r} {sentence}'
    frames = traceback.extract_tb(error.__traceback__)
    where = f' (in {frames[-1].filename}, line {frames[-1].lineno})' if frames else ''
    return f'a file {sentence}{where}'


def raise_unwritten(path, size=2**20):
    """Raise the error of a file that a library has failed to write, without saying why.

    Args:
        path (str | os.PathLike): The file.
        size (int): Bytes that it needs, about.

    Raises:
        OSError: Always; that of a full disk, where there are not so many bytes left.
    """
    probe = f'{path}.{os.getpid()}.tmp'
    try:
        with naming(path, probe), open(probe, 'wb') as file:
            file.write(bytes(size))
    finally:
        with contextlib.suppress(OSError):
            os.remove(probe)
    raise OSError(f'{os.fspath(path)!r} cannot be written')
