"""Reading checkpoints without running the code that a pickle may carry."""

import argparse
import os
import pickle
import re
from pathlib import Path

# The only attributes of HistoryBuffer that MMEngine's checkpoints refer to are its statistics.
_STATISTICS = ('current', 'max', 'mean', 'min')


def load_checkpoint_safely(path_or_url, map_location='cpu'):
    """Load a checkpoint, building tensors and plain data only.

    The ending of the name tells the format: ``.safetensors``, ``.npz``, or else a pickle of torch.
    Beside tensors and containers, a pickle may hold numpy values, MMEngine's log buffers and the
    ``argparse.Namespace`` of DeiT's checkpoints.

    Args:
        path_or_url (str | os.PathLike): A file, or an ``http(s)://`` address, which is downloaded
            once into torch's cache.
        map_location: As in ``torch.load``; the tensors of the other formats are on the CPU.

    Returns:
        dict: The checkpoint; of the other formats, tensors by name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty or damaged, holds objects that are not allowed (they are named
            and never built), or is not a dictionary; or the address is of another kind.
    """
    source = os.path.expanduser(os.fspath(path_or_url))
    if source.startswith(('http://', 'https://')):
        return _read(_download(source), source, map_location)
    if '://' in source:
        raise ValueError(f'checkpoint {source!r}: expected a file or an http(s):// address')
    if not os.path.isfile(source):
        what = 'is a directory' if os.path.isdir(source) else 'does not exist'
        raise FileNotFoundError(f'checkpoint {source!r} {what}')
    return _read(source, source, map_location)


def guard_mmengine_loading():
    """Send every checkpoint that MMEngine loads in this process through the safe loader.

    ``Runner.load_checkpoint``, ``Runner.resume`` and ``init_cfg`` all end in
    ``CheckpointLoader.load_checkpoint``. There MMEngine 0.10.7 cannot read its own checkpoints
    under current torch, and the maintained fork falls back to an unsafe load.
    """
    from mmengine.logging import print_log
    from mmengine.runner import CheckpointLoader

    def load_checkpoint(filename, map_location=None, logger='current'):
        print_log(f'Loads checkpoint safely from {filename}', logger=logger)
        checkpoint = load_checkpoint_safely(filename, map_location)
        if isinstance(checkpoint.get('meta'), dict):
            # Runner.resume would execute this text as a Python config.
            checkpoint['meta'].pop('config', None)
        return checkpoint

    CheckpointLoader.load_checkpoint = staticmethod(load_checkpoint)


def find_resumable(work_dir):
    """Find the newest checkpoint of a training run that can be read.

    A run killed while saving leaves a truncated file behind; the one before it is taken then.

    Args:
        work_dir (str | os.PathLike): Folder of the run.

    Returns:
        str | None: Path of ``iter_N.pth`` or ``epoch_N.pth``.
    """
    found = {}
    for path in Path(work_dir).glob('*_*.pth'):
        match = re.fullmatch(r'(?:iter|epoch)_(\d+)', path.stem)
        if match:
            found[path] = int(match[1])
    for path in sorted(found, key=found.get, reverse=True):
        try:
            load_checkpoint_safely(path)
        except ValueError:
            continue
        return str(path)
    return None


def _read(path, source, map_location):
    if os.path.getsize(path) == 0:
        raise ValueError(f'checkpoint {source!r} is empty')
    try:
        ending = Path(path).suffix.lower()
        if ending == '.safetensors':
            checkpoint = _read_safetensors(path)
        elif ending == '.npz':
            checkpoint = _read_npz(path)
        else:
            checkpoint = _read_pickle(path, map_location)
    except (PermissionError, ImportError):
        raise
    # A damaged file fails anywhere inside its reader, with almost any exception.
    except Exception as error:
        refused = re.search(r'GLOBAL (\S+)', str(error))
        if refused:
            what = f'is refused: it holds {refused[1]}, which is not plain data'
        else:
            what = 'is truncated, damaged or no checkpoint'
        raise ValueError(f'checkpoint {source!r} {what}') from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f'checkpoint {source!r} holds a {type(checkpoint).__name__}, not a dict')
    return checkpoint


def _read_pickle(path, map_location):
    import torch

    with torch.serialization.safe_globals(_allowed_globals()):
        return torch.load(path, map_location=map_location, weights_only=True)


def _read_safetensors(path):
    from safetensors.torch import load_file

    return load_file(path)


def _read_npz(path):
    import numpy as np
    import torch

    tensors = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            try:
                array = arrays[name]
            except ValueError as error:
                if 'Object arrays' not in str(error):
                    raise
                array = None  # a pickle, which stays unread
            if not isinstance(array, np.ndarray) or array.dtype.kind not in 'biuf':
                raise pickle.UnpicklingError(f'Unsupported array: GLOBAL {name}')
            tensors[name] = torch.from_numpy(array)
    return tensors


def _download(url):
    import torch
    from torch import distributed

    path = os.path.join(torch.hub.get_dir(), 'checkpoints', os.path.basename(url.split('?')[0]))
    if os.environ.get('LOCAL_RANK', '0') == '0' and not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, path)
        except OSError as error:
            raise ValueError(f'checkpoint {url!r} cannot be downloaded ({error})') from error
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
    return path


def _allowed_globals():
    """What checkpoints hold beyond torch's own list: numpy values, log buffers, parsed options."""
    import numpy as np

    multiarray = getattr(np, '_core', None) or np.core
    allowed = [np.ndarray, np.dtype, argparse.Namespace]
    # The name in a checkpoint depends on the numpy that wrote it.
    for package in ('numpy.core', 'numpy._core'):
        for name in ('_reconstruct', 'scalar'):
            function = getattr(multiarray.multiarray, name)
            allowed.append((function, f'{package}.multiarray.{name}'))
    allowed += {type(np.dtype(code)) for code in '?bBhHiIlLqQefd'}
    try:
        from mmengine.logging import HistoryBuffer
    except ImportError:
        return allowed

    def statistic(owner, name):
        if owner is not HistoryBuffer or name not in _STATISTICS:
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL getattr:{name}')
        return getattr(HistoryBuffer, name)

    # A HistoryBuffer stores its methods as getattr(HistoryBuffer, name); Python's own getattr would
    # hand out far more than that.
    return [*allowed, HistoryBuffer, (statistic, 'builtins.getattr')]
