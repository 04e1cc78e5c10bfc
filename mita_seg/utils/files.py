"""Files that are either whole or absent, whenever the writer is killed."""

import contextlib
import json
import os
import shutil
from pathlib import Path

from filelock import FileLock, Timeout  # which torch needs too

from .full_disk import naming


@contextlib.contextmanager
def replacing(path, mode='w'):
    """Open a temporary file that takes the place of ``path`` once it is written.

    It is removed when the writer raises. A device, such as ``/dev/stdout``, is written as it is.
    """
    encoding = None if 'b' in mode else 'utf-8'
    if os.path.exists(path) and not os.path.isfile(path):
        with naming(path), open(path, mode, encoding=encoding) as file:
            yield file
        return
    temporary = f'{path}.{os.getpid()}.tmp'
    with taking_place(temporary, path), open(temporary, mode, encoding=encoding) as file:
        yield file


@contextlib.contextmanager
def taking_place(temporary, path):
    """Move a file or a folder into place at the end of the block, or remove it when that raises.

    A folder replaces one that is there. The error of a full disk names ``path``.
    """
    try:
        with naming(path, temporary):
            yield
            if os.path.isdir(temporary) and os.path.isdir(path):
                shutil.rmtree(path)
            os.replace(temporary, path)
    except BaseException:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def check_destination(path, endings, *, overwrite=False):
    """Make sure that a file can be written, before any work is done.

    Args:
        path (str | os.PathLike): The file.
        endings (Sequence[str]): What its name may end in.
        overwrite (bool): Whether it may exist.

    Raises:
        ValueError: Its name has another ending, its folder does not exist or cannot be written, or
            it exists and is not to be overwritten.
    """
    path = Path(path)
    if path.suffix not in endings:
        raise ValueError(f'destination {str(path)!r} must end in {" or ".join(endings)}')
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f'destination {str(path)!r}: {str(path.parent)!r} is no writable folder')
    if path.exists() and not overwrite:
        raise ValueError(f'destination {str(path)!r} exists')


def write_config(path, cfg):
    """Write a config of MMEngine; the ending of the file says the format, as for ``cfg.dump``."""
    path = Path(path)
    # MMEngine chooses the format by the ending, so the temporary name keeps it.
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp{path.suffix}')
    try:
        with taking_place(temporary, path):
            cfg.dump(temporary)
    except SyntaxError as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # which MMEngine takes for a fault
            raise error.__context__ from None
        raise


def write_json(path, value):
    """Write a JSON file."""
    with replacing(path) as file:
        json.dump(value, file, indent=2)
        file.write('\n')


def read_json(path):
    """Read a JSON file that holds an object; None if there is none.

    Raises:
        ValueError: The file is damaged, or holds something else.
    """
    try:
        with open(path) as file:
            value = json.load(file)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(f'file {str(path)!r} is damaged: it is no JSON') from error
    if not isinstance(value, dict):
        raise ValueError(f'file {str(path)!r} holds a {type(value).__name__}, not an object')
    return value


def save_figure(figure, path):
    """Save a matplotlib figure as PNG; return the path."""
    # Matplotlib chooses the format by the ending, so the temporary name keeps it.
    temporary = path.with_name(f'.{path.name}.tmp.png')
    with taking_place(temporary, path):
        figure.savefig(temporary, dpi=130)
    return path


@contextlib.contextmanager
def exclusive(folder):
    """Hold a folder against a second process.

    Raises:
        ValueError: Another process holds it.
    """
    lock = FileLock(os.path.join(folder, '.lock'))
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ValueError(f'another process is writing in {str(folder)!r}') from error
    try:
        yield
    finally:
        lock.release()
