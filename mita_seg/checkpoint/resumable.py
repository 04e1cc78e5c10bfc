"""Finding what a training run can go on from."""

import os
import re
from pathlib import Path
from string import Formatter

from .loading import DamagedCheckpoint, load_checkpoint_safely

_STANDARD_NAMES = ('iter_{}.pth', 'epoch_{}.pth')


def find_resumable(work_dir, hook=None, say=print):
    """Find the newest whole checkpoint of a training run.

    Args:
        work_dir (str | os.PathLike): Folder of the run.
        hook (dict, optional): The config of its CheckpointHook, which may keep the checkpoints in
            another folder (`out_dir`) or under other names (`filename_tmpl`).
        say (Callable[[str], None]): Told in a sentence of every damaged file that is passed over.

    Returns:
        str | None: Path of the checkpoint; None if the run has left none.

    Raises:
        ValueError: The newest whole one is refused, none is whole, or what is there cannot be
            resumed.
    """
    found = find_newest(work_dir, hook, say)
    return found and found[0]


def find_newest(work_dir, hook=None, say=print):
    """Find the newest whole checkpoint and load it, as :func:`find_resumable`.

    Returns:
        tuple[str, dict | None] | None: Path and content; the latter is None for a checkpoint that
        is a folder or behind an address, which is not looked into.
    """
    damaged = []
    for path in _list_candidates(Path(work_dir), hook or {}):
        try:
            remote = '://' in path or os.path.isdir(path)
            checkpoint = None if remote else load_checkpoint_safely(path)
        except (DamagedCheckpoint, FileNotFoundError) as error:
            damaged.append(str(error))
            continue
        for error in damaged:
            say(f'passed over: {error}')
        return path, checkpoint
    if damaged:
        raise ValueError(f'no whole checkpoint in {str(work_dir)!r}: {"; ".join(damaged)}')
    best = sorted(str(path) for path in _folder(Path(work_dir), hook or {}).glob('best_*.pth'))
    if best:
        raise ValueError(
            f'{best[0]!r} holds the weights of a training but not its state, so it cannot be '
            'resumed, and starting again may overwrite it; start without resuming, or elsewhere'
        )
    return None


def _list_candidates(work_dir, hook):
    """Paths of checkpoints, the one to go on from first."""
    template = hook.get('filename_tmpl') or _STANDARD_NAMES[bool(hook.get('by_epoch', True))]
    folder = _folder(work_dir, hook)
    numbered = {}
    for other in (template, *_STANDARD_NAMES):
        for place in (folder, work_dir):
            for path, number in _matching(place, other):
                numbered.setdefault(path, (other == template, number))
    by_number = sorted(numbered, key=numbered.get, reverse=True)
    pointer = work_dir / 'last_checkpoint'
    named = pointer.read_text(errors='replace').strip() if pointer.is_file() else ''
    if not named:
        return by_number
    named = named if '://' in named else os.path.abspath(named)
    # A run that is killed may have left a newer one, which the file does not name yet. One with a
    # higher number that is older is of another course of training, which was resumed earlier on.
    rank, written = numbered.get(named, (True, float('inf'))), pointer.stat().st_mtime_ns
    newer = [p for p in by_number if numbered[p] > rank and os.stat(p).st_mtime_ns > written]
    return list(dict.fromkeys([*newer, named, *by_number]))


def _folder(work_dir, hook):
    """Where CheckpointHook puts the checkpoints of a run."""
    out_dir = hook.get('out_dir')
    if not out_dir or '://' in str(out_dir) or os.path.abspath(work_dir) == str(out_dir):
        return work_dir
    return Path(out_dir) / Path(os.path.abspath(work_dir)).name


def _matching(folder, template):
    """Files whose names a template such as ``iter_{}.pth`` makes, with their numbers."""
    pattern = ''.join(
        re.escape(text) + (r'0*(\d+)' if field is not None else '')
        for text, field, _, _ in Formatter().parse(template)
    )
    for path in folder.glob('*'):
        match = re.fullmatch(pattern, path.name)
        if match:
            yield os.path.abspath(path), int(match[1])
