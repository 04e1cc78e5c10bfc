"""Runs the tests in one environment after another and keeps a table of the results.

    python .ci/test_matrix.py                 # all environments that have no result yet
    python .ci/test_matrix.py --only lowest   # this one, anew
    python .ci/test_matrix.py --list

An environment is made below .venv/matrix, takes some gigabytes where torch brings CUDA, and is
removed after its tests unless --keep is given. Results are files in .ci/matrix; a run that is
stopped goes on with the environments that have none. The table is written into docs/versions.md.
"""

import argparse
import datetime
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / '.venv/matrix'
RESULTS = ROOT / '.ci/matrix'
PAGE = ROOT / 'docs/versions.md'
BEGIN, END = '<!-- results -->', '<!-- end of results -->'

QUICK = 'not slow and not long and not speed'
CORE = ('tests/ops', 'tests/layers', 'tests/swap', 'tests/properties')
# As `make test-upstream`: what concerns MMSegmentation.
OF_MMSEG = (
    *('tests/models', 'tests/datasets', 'tests/engine', 'tests/checkpoint', 'tests/conversion'),
    *('tests/inference', 'tests/analysis', 'tests/tools', 'tests/swap/test_mmseg.py'),
)
UPSTREAM = ('mmcv-lite==2.1.0', 'mmengine==0.10.7', 'mmsegmentation==1.2.2')
MAINTAINED = ('onedl-mim', 'onedl-mmcv', 'onedl-mmengine', 'onedl-mmsegmentation')
SHOWN = ('torch', 'triton', 'numpy', *MAINTAINED[1:], 'mmcv-lite', 'mmengine', 'mmsegmentation')


@dataclass(frozen=True)
class Environment:
    """What is installed, and which tests run there.

    Attributes:
        python: Version of the interpreter.
        what: What it is for, for the table.
        torch: Requirement of torch.
        pinned: Whether all other packages are those of constraints.txt, or else the newest.
        family: ``'maintained'``, ``'upstream'`` or None: without OpenMMLab's packages.
        triton: Whether Triton stays installed.
        tests: Folders and files; all tests by default.
    """

    python: str
    what: str
    torch: str = 'torch==2.13.0'
    pinned: bool = True
    family: str | None = 'maintained'
    triton: bool = True
    tests: tuple = ()


ENVIRONMENTS = {
    'pinned': Environment('3.11', 'the pinned versions'),
    'pinned-3.10': Environment('3.10', 'the pinned versions'),
    'pinned-3.12': Environment('3.12', 'the pinned versions'),
    'pinned-3.13': Environment('3.13', 'the pinned versions'),
    # The interpreter of Triton 3.3, which comes with it, writes outside its memory.
    'lowest': Environment('3.10', 'the lowest torch', 'torch==2.7.0', triton=False),
    'newest': Environment('3.13', 'the newest of everything', 'torch', pinned=False),
    'no-triton': Environment('3.11', 'without Triton', triton=False),
    'no-mm': Environment('3.12', 'without MMSegmentation', family=None, tests=CORE),
    'no-mm-lowest': Environment(
        '3.10',
        'without MMSegmentation, the lowest torch',
        'torch==2.7.0',
        family=None,
        triton=False,
        tests=CORE,
    ),
    'bare': Environment(
        '3.11', 'without MMSegmentation and Triton', family=None, triton=False, tests=CORE
    ),
    'upstream': Environment(
        '3.11', "beside upstream's MMSegmentation", family='upstream', tests=OF_MMSEG
    ),
}


def find_python(version):
    """The interpreter of a version; None if there is none."""
    found = shutil.which(f'python{version}')
    pyenv = os.environ.get('PYENV_ROOT', os.path.expanduser('~/.pyenv'))
    options = [*([found] if found else []), *glob.glob(f'{pyenv}/versions/{version}.*/bin/python')]
    for each in options:
        answer = subprocess.run(
            [each, '-c', 'import sys; print("%d.%d" % sys.version_info[:2])'],
            capture_output=True,
            text=True,
        )
        if answer.stdout.strip() == version:
            return each
    return None


def make_environment(name, interpreter):
    """Make a virtual environment; returns its interpreter."""
    wanted, folder = ENVIRONMENTS[name], FOLDER / name
    python = folder / 'bin/python'
    if (folder / '.installed').exists():
        return python
    subprocess.run([interpreter, '-m', 'venv', '--clear', str(folder)], check=True)
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    if wanted.pinned:
        own = wanted.torch.startswith('torch==2.13')
        lines = [line for line in lines if own or not re.match(r'(torch|triton)==', line)]
    else:
        lines = []
    constraints = folder / 'constraints.txt'
    constraints.write_text('\n'.join(lines) + '\n')

    def pip(*arguments):
        subprocess.run([python, '-m', 'pip', *arguments, '--quiet'], check=True)

    def install(*packages):
        pip('install', '--constraint', str(constraints), *packages)

    if wanted.family is None:
        install(wanted.torch, '-e', str(ROOT), 'pytest>=8', 'pytest-xdist>=3.6', 'hypothesis')
        if wanted.triton:
            install('triton')
    else:
        install(wanted.torch, '-e', f'{ROOT}[test]')
    if wanted.family == 'upstream':
        pip('uninstall', '--yes', *MAINTAINED)
        pip('install', '--no-deps', *UPSTREAM)
        purelib = 'import sysconfig; print(sysconfig.get_path("purelib"))'
        site = subprocess.check_output([python, '-c', purelib], text=True).strip()
        shutil.copy(ROOT / 'tests/support/upstream_mmcv_ext.py', f'{site}/mmcv/_ext.py')
    if not wanted.triton:
        pip('uninstall', '--yes', 'triton')
    (folder / '.installed').touch()
    return python


def versions(python):
    """The versions of what matters in an environment."""
    script = (
        'import importlib.metadata as m, json, platform\n'
        'found = {"python": platform.python_version()}\n'
        f'for name in {SHOWN!r}:\n'
        '    try: found[name] = m.version(name)\n'
        '    except m.PackageNotFoundError: pass\n'
        'print(json.dumps(found))'
    )
    return json.loads(subprocess.check_output([python, '-c', script], text=True))


def run_tests(name, python, more):
    """Run the tests of an environment; returns what is kept of it."""
    command = [python, '-m', 'pytest', '-q', '-n', '2', '--dist', 'loadfile', '-m', QUICK]
    command += ['-p', 'no:cacheprovider', *more, *ENVIRONMENTS[name].tests]
    log = FOLDER / f'{name}.log'
    begin = time.monotonic()
    with open(log, 'w') as file:
        variables = {**os.environ, 'OMP_NUM_THREADS': '1'}
        status = subprocess.run(
            command, cwd=ROOT, env=variables, stdout=file, stderr=subprocess.STDOUT
        ).returncode
    last = log.read_text(errors='replace').strip().rpartition('\n')[2]
    counts = dict(
        (word.rstrip('s') if word.startswith('error') else word, int(number))
        for number, word in re.findall(r'(\d+) (passed|failed|skipped|errors?)', last)
    )
    return {
        'date': datetime.date.today().isoformat(),
        'status': status,
        'seconds': round(time.monotonic() - begin),
        'counts': counts,
        'versions': versions(python),
    }


def row(name):
    """A line of the table."""
    wanted, path = ENVIRONMENTS[name], RESULTS / f'{name}.json'
    tests = 'ops, layers, swap, properties' if wanted.tests == CORE else 'quick'
    tests = 'quick, of MMSegmentation' if wanted.family == 'upstream' else tests
    begin = f'| `{name}`: {wanted.what} |'
    if not path.exists():
        return f'{begin} {wanted.python} | {wanted.torch[5:].lstrip("=")} | | | {tests} | not run |'
    kept = json.loads(path.read_text())
    if 'why' in kept:
        return f'{begin} {wanted.python} | | | | {tests} | not run: {kept["why"]} |'
    found, counts = kept['versions'], kept['counts']
    family = found.get('onedl-mmsegmentation') or found.get('mmsegmentation') or 'none'
    said = ', '.join(
        f'{counts[word]} {word}'
        for word in ('passed', 'failed', 'error', 'skipped')
        if word in counts
    )
    said = said if kept['status'] in (0, 1) else f'{said} (status {kept["status"]})'
    return (
        f'{begin} {found["python"]} | {found["torch"]} | {found.get("triton", "none")} | {family} '
        f'| {tests} | {said}; {kept["date"]} |'
    )


def write_table():
    """Put the table into the page."""
    lines = [
        '| environment | Python | torch | Triton | MMSegmentation | tests | result |',
        '|---|---|---|---|---|---|---|',
        *map(row, ENVIRONMENTS),
    ]
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text('\n'.join([before + BEGIN, *lines, END + after]))


def main():
    """Run what is asked for; the exit status is 1 if tests failed in any environment."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--only', nargs='+', choices=ENVIRONMENTS, help='these, anew')
    parser.add_argument('--list', action='store_true', help='list the environments')
    parser.add_argument('--keep', action='store_true', help='keep the environments')
    parser.add_argument('--table', action='store_true', help='write the table alone')
    args, more = parser.parse_known_args()
    if args.list:
        print('\n'.join(f'{name}: {each}' for name, each in ENVIRONMENTS.items()))
        return 0
    RESULTS.mkdir(exist_ok=True)
    failed = 0
    for name in [] if args.table else args.only or ENVIRONMENTS:
        path = RESULTS / f'{name}.json'
        if path.exists() and not args.only:
            print(f'{name}: has a result of {json.loads(path.read_text()).get("date")}')
            continue
        interpreter = find_python(ENVIRONMENTS[name].python)
        if interpreter is None:
            kept = {'why': f'no Python {ENVIRONMENTS[name].python} on the machine'}
        else:
            print(f'{name}: installing', flush=True)
            python = make_environment(name, interpreter)
            print(f'{name}: testing', flush=True)
            kept = run_tests(name, python, more)
            failed |= kept['status'] != 0
            if not args.keep:
                shutil.rmtree(FOLDER / name)
        path.write_text(json.dumps(kept, indent=2) + '\n')
        print(f'{name}: {kept}', flush=True)
    write_table()
    return failed


if __name__ == '__main__':
    sys.exit(main())
