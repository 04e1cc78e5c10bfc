"""Changed files of every format that is read: each is read, or refused by a sentence of ours.

``make test-fuzz`` reads them for ``MITA_SEG_FUZZ_SECONDS`` (600) in all, other tests a few of each.
What it finds is kept below ``MITA_SEG_FUZZ_FOUND``, a folder, or else in pytest's.
"""

import gc
import linecache
import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

import pytest

pytest.importorskip('mmseg')

from fuzz.readers import make_readers

ROOT = Path(__file__).resolve().parents[2]
NAMES = ('checkpoint', 'image', 'labels', 'results', 'settings', 'classes', 'coco', 'labelme')
SECONDS = float(os.environ.get('MITA_SEG_FUZZ_SECONDS', 0))
CASES = {'coco': 4, 'labelme': 4}  # without seconds; 12 of the others
LONGEST = 5  # seconds for one file
GROWTH = 200  # MiB in all, once memory has settled

# What no reading of a file does.
FORBIDDEN = ('os.system', 'os.exec', 'os.posix_spawn', 'os.fork', 'subprocess.Popen')
FORBIDDEN += ('socket.connect', 'os.remove', 'os.rename', 'shutil.rmtree', 'ctypes.dlopen')
_done = []
_watching = False


def _watch(event, args):
    if _watching and event in FORBIDDEN:
        _done.append((event, args))


@pytest.fixture(scope='session')
def readers(tmp_path_factory):
    sys.addaudithook(_watch)
    return make_readers(tmp_path_factory.mktemp('fuzz'))


class LateError(BaseException):
    """Which no reader takes for damage of its file."""


def ends_late(*_):
    raise LateError(f'took more than {LONGEST} seconds')


def problem(read, path):
    """What is wrong with how a file was read; None if it was read or refused as it should be."""
    global _watching
    signal.signal(signal.SIGALRM, ends_late)
    signal.alarm(LONGEST)
    _watching = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            read(path)
    except (Exception, LateError) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        line = linecache.getline(frame.filename, frame.lineno).strip()
        ours = str(ROOT / 'mita_seg') in frame.filename or str(ROOT / 'tools') in frame.filename
        meant = isinstance(error, (ValueError, TypeError, FileNotFoundError)) and ours
        if not (meant and line.startswith('raise ')) or '\n' in str(error):
            return ''.join(traceback.format_exception(error)[-4:])
    finally:
        _watching = False
        signal.alarm(0)
    if _done:
        return f'did {_done.pop()}'
    return None


def memory():
    """MiB that this process holds now."""
    gc.collect()
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='memory is read from /proc')
@pytest.mark.parametrize('name', NAMES)
def test_changed_files_are_read_or_refused(name, readers, tmp_path):
    reader, folder = readers[name]
    kept = Path(os.environ.get('MITA_SEG_FUZZ_FOUND', tmp_path))
    found, cases, settled = {}, 0, None
    begin, seconds = time.monotonic(), SECONDS / len(NAMES)
    # Another course for every length, the same one every time.
    draw = random.Random(f'{name} {SECONDS}')
    most = CASES.get(name, 12)
    while time.monotonic() - begin < seconds if seconds else cases < most:
        chosen = draw.choice(sorted(reader.files))
        data = reader.mutate(reader.files[chosen], draw)
        path = folder / chosen
        path.write_bytes(data)
        cases += 1
        what = problem(reader.read, path)
        if what and what[-300:] not in found:
            found[what[-300:]] = what
            kept.mkdir(parents=True, exist_ok=True)
            (kept / f'{name}-{cases}{path.suffix}').write_bytes(data)
        if settled is None and time.monotonic() - begin > seconds / 5:
            settled = memory()
        path.write_bytes(reader.files[chosen])
    growth = memory() - settled
    print(f'\n{name}: {cases} files, {len(found)} findings, {growth:.0f} MiB more')
    assert not found, f'{name}, kept in {kept}:\n' + '\n'.join(found.values())
    assert growth < GROWTH
