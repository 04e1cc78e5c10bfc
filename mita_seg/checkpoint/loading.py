"""Reading checkpoints without running the code that a pickle may carry."""

import contextlib
import errno
import math
import os
import pickle
import re
import zipfile
from pathlib import Path

from .download import download


class DamagedCheckpoint(ValueError):
    """A file that is no whole checkpoint. One that is whole but refused is a plain ValueError."""


def load_checkpoint_safely(path_or_url, map_location='cpu'):
    """Load a checkpoint, building tensors and plain data only.

    The ending of the name tells the format: ``.safetensors``, ``.npz``, or else a pickle of torch.
    Beside tensors and containers, a pickle may hold numpy values, MMEngine's log buffers and
    configs (which become dicts), dates and the ``argparse.Namespace`` of DeiT's checkpoints. The
    checksums in a file are compared.

    Args:
        path_or_url (str | os.PathLike): A file, or an ``http(s)://`` address, which is downloaded
            once into torch's cache.
        map_location: As in ``torch.load``; the tensors of the other formats are on the CPU.

    Returns:
        dict: The checkpoint; of the other formats, tensors by name.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedCheckpoint: The file is empty or damaged.
        ValueError: The file holds objects that are not allowed (they are named and never built), or
            is not a dictionary; or the address is of another kind or cannot be fetched.
        MemoryError: The file holds more than there is memory for.
    """
    source = os.path.expanduser(os.fspath(path_or_url))
    if source.startswith(('http://', 'https://')):
        return _load(download(source), source, map_location)
    if '://' in source:
        raise ValueError(f'checkpoint {source!r}: expected a file or an http(s):// address')
    if not os.path.isfile(source):
        what = 'is a directory' if os.path.isdir(source) else 'does not exist'
        raise FileNotFoundError(f'checkpoint {source!r} {what}')
    return _load(source, source, map_location)


def load_pickle_safely(file, map_location='cpu', source='of a stream'):
    """Load what ``torch.save`` wrote, of which nothing is run.

    Args:
        file (str | os.PathLike | BinaryIO): The file.
        map_location: As in ``torch.load``.
        source (str): Its name in messages.

    Returns:
        What was saved.

    Raises:
        DamagedCheckpoint: The file is damaged.
        ValueError: It holds objects that are not allowed.
    """
    import torch

    from .pickled import allowed_globals, settle

    if map_location is None and not torch.cuda.is_available():
        map_location = 'cpu'  # None means where the tensors were
    with _damage(source):
        is_zip = _compare_checksums(file)
    with _damage(source, whole=is_zip), torch.serialization.safe_globals(allowed_globals()):
        return settle(torch.load(file, map_location=map_location, weights_only=True))


def verify_checkpoint(path):
    """Make sure that a checkpoint just written can be read, without reading its weights.

    Args:
        path (str | os.PathLike): What ``torch.save`` wrote.

    Raises:
        ValueError: :func:`load_checkpoint_safely` would not read it.
    """
    import torch

    from .pickled import allowed_globals

    with _damage(path, whole=True), torch.serialization.safe_globals(allowed_globals()):
        torch.load(path, map_location='cpu', weights_only=True, mmap=True)


def _load(path, source, map_location):
    if os.path.getsize(path) == 0:
        raise DamagedCheckpoint(f'checkpoint {source!r} is empty')
    ending = Path(path).suffix.lower()
    if ending == '.safetensors':
        with _damage(source):
            checkpoint = _read_safetensors(path)
    elif ending == '.npz':
        with _damage(source):
            checkpoint = _read_npz(path)
    else:
        checkpoint = load_pickle_safely(path, map_location, source)
    if not isinstance(checkpoint, dict):
        raise ValueError(f'checkpoint {source!r} holds a {type(checkpoint).__name__}, not a dict')
    return checkpoint


@contextlib.contextmanager
def _damage(source, whole=False):
    """Turn what a reader raises into one sentence: the file is damaged, or refused.

    Args:
        source (str | os.PathLike): The file's name.
        whole (bool): Whether it is known not to be damaged.
    """
    try:
        yield
    except (PermissionError, ImportError):
        raise
    except MemoryError as error:
        raise MemoryError(f'checkpoint {os.fspath(source)!r} does not fit into memory') from error
    # A damaged file fails anywhere inside its reader, with almost any exception.
    except Exception as error:
        # Not of the file, but of the disk or the machine. A seek to nowhere is of the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        name = f'checkpoint {os.fspath(source)!r}'
        if 'TorchScript' in str(error):
            raise ValueError(f'{name} is refused: it is a program (TorchScript)') from error
        named = re.search(r'GLOBAL (\S+)', str(error))
        if named:
            raise ValueError(
                f'{name} is refused: it holds {named[1]}, which is not plain data'
            ) from error
        if whole and isinstance(error, pickle.UnpicklingError):
            reason = re.search(r'WeightsUnpickler error:\s*(.+)', str(error)) or ['', str(error)]
            raise ValueError(f'{name} is refused: it is not plain data ({reason[1]})') from error
        raise DamagedCheckpoint(f'{name} is truncated, damaged or no checkpoint') from error


def _compare_checksums(file):
    """Read a zip file through, whose checksums torch ignores; whether it is one."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        _refuse_overlap(archive)
        for entry in archive.infolist():
            if entry.CRC:  # zero where torch was told not to compute it
                with archive.open(entry) as content:
                    while content.read(2**20):
                        pass
    if hasattr(file, 'seek'):
        file.seek(0)
    return True


def _refuse_overlap(archive):
    """Refuse a zip file whose entries share their bytes: a small one could hold terabytes."""
    archive.fp.seek(0, os.SEEK_END)
    if sum(entry.compress_size for entry in archive.infolist()) > archive.fp.tell():
        raise ValueError('the entries are larger than the file')


def _read_safetensors(path):
    from safetensors import safe_open

    from mita_seg.conversion.position_embedding import grids_from_text

    with safe_open(path, framework='pt') as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        return grids_from_text(weights, file.metadata())


def _read_npz(path):
    import numpy as np
    import torch

    tensors = {}
    with np.load(path, allow_pickle=False) as arrays:
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError('a single array')
        _refuse_overlap(arrays.zip)
        for name in arrays.files:
            _check_array_header(arrays.zip, name)
            array = arrays[name]
            tensors[name] = torch.from_numpy(
                array.astype(array.dtype.newbyteorder('='), copy=False)
            )
    return tensors


def _check_array_header(archive, name):
    """Refuse an array of a zip file by its header, from which numpy takes what memory it needs."""
    from numpy.lib import format as npy

    if f'{name}.npy' not in archive.NameToInfo:
        raise pickle.UnpicklingError(f'Unsupported member: GLOBAL {name}')
    entry = archive.getinfo(f'{name}.npy')
    with archive.open(entry) as file:
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, _, dtype = read[npy.read_magic(file)](file)
    # Neither objects, which are pickles, nor text nor records.
    if dtype.kind not in 'biuf' or dtype.itemsize > 8:
        raise pickle.UnpicklingError(f'Unsupported array: GLOBAL {name}')
    if dtype.itemsize * math.prod(shape) > entry.file_size:
        raise ValueError(f'{name} has fewer values than its header says')
