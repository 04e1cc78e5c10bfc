"""Calls on a disk that is nearly full: a file system of its own, in memory, for one process."""

import ctypes
import gc
import hashlib
import json
import logging
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from support.forks import Fork, exit_status

_NEW_MOUNTS, _NEW_USERS = 0x00020000, 0x10000000  # of unshare(2)
_PRIVATE = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE of mount(2)
_BYTES = 2**26  # of a disk
_LOG = re.compile(r'\d{8}_\d{6}/.*\.(log|json)$')  # of MMEngine, which appends to it


@dataclass
class Ended:
    """How a call ended.

    Attributes:
        status: Its exit status.
        printed: What it printed, errors too.
        earlier: What was there before, by its path on the disk: the digest of each file.
        files: What is there afterwards.
        damaged: Those of them that cannot be read.
        used: Bytes that were written.
    """

    status: int
    printed: str
    earlier: dict[str, str]
    files: dict[str, str]
    damaged: list[str]
    used: int


def can_mount():
    """Whether a process of this user may have file systems of its own."""
    if not sys.platform.startswith('linux'):
        return False
    with tempfile.TemporaryDirectory() as folder:

        def mount():
            try:
                _mount(folder)
            except OSError:
                return 1

        return Fork(mount).wait() == 0


def call(function, folder, room=None, before=None):
    """Call a function in a fork of this process, where a folder is a disk of its own.

    Args:
        function (Callable[[], int | None]): Returns an exit status, or exits.
        folder (Path): An empty folder.
        room (int, optional): Bytes that are left on the disk; by default 64 MiB.
        before (Callable, optional): Called when there is all the room.

    Returns:
        Ended: How it ended. The disk is gone then.
    """
    with tempfile.TemporaryFile('w+') as printed, tempfile.TemporaryFile('w+') as found:

        def call_and_look():
            _mount(folder)
            for descriptor in (1, 2):
                os.dup2(printed.fileno(), descriptor)
            sys.stdout = open(1, 'w', closefd=False)  # noqa: SIM115
            sys.stderr = open(2, 'w', closefd=False)  # noqa: SIM115
            if before is not None:
                assert exit_status(before) == 0
                printed.truncate(0)
                printed.seek(0)
            earlier = _digests(folder)
            if room is not None:
                _fill(folder, room)
            free = os.statvfs(folder).f_bfree
            status = exit_status(function)
            logging.shutdown()  # as at the end of a program
            gc.collect()
            space = os.statvfs(folder)
            used = (free - space.f_bfree) * space.f_frsize
            files = _digests(folder)
            damaged = [name for name in files if not _is_whole(folder / name)]
            json.dump([earlier, files, damaged, used], found)
            found.flush()
            return status

        status = Fork(call_and_look).wait()
        printed.seek(0)
        found.seek(0)
        looked = found.read()
        assert looked, printed.read()
        return Ended(status, printed.read(), *json.loads(looked))


def _digests(folder):
    """Of all files but logs and what fills the disk."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file() and not _LOG.search(path.as_posix()) and path.name != '.filling'
    }


def _is_whole(path):
    from PIL import Image

    from mita_seg.checkpoint import load_checkpoint_safely
    from mita_seg.inference.sources import read_frames

    readers = {
        '.pth': load_checkpoint_safely,
        '.safetensors': load_checkpoint_safely,
        '.json': lambda path: json.loads(path.read_text()),
        '.py': lambda path: compile(path.read_text() or 'empty file', path, 'exec'),
        '.png': lambda path: Image.open(path).load(),
        '.jpg': lambda path: Image.open(path).load(),
        '.mp4': lambda path: list(read_frames(str(path))),
    }
    try:
        readers.get(path.suffix, Path.read_bytes)(path)
    except Exception:
        return False
    return path.name == '.lock' or path.stat().st_size > 0


def _fill(folder, room):
    space = os.statvfs(folder)
    with open(folder / '.filling', 'wb') as file:
        for _ in range(space.f_bavail - room // space.f_frsize):
            file.write(bytes(space.f_frsize))


def _mount(folder):
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    _check(libc.unshare(_NEW_MOUNTS if user == 0 else _NEW_MOUNTS | _NEW_USERS))
    if user:
        maps = {'setgroups': 'deny', 'uid_map': f'0 {user} 1', 'gid_map': f'0 {group} 1'}
        for name, text in maps.items():
            Path('/proc/self', name).write_text(text)
    _check(libc.mount(b'none', b'/', None, _PRIVATE, None))  # nobody else sees what is mounted
    _check(libc.mount(b'none', os.fsencode(folder), b'tmpfs', 0, f'size={_BYTES}'.encode()))


def _check(result):
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
