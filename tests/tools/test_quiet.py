"""What tools print begins with their own words, not with remarks of the packages below."""

import subprocess
import sys

import pytest

pytest.importorskip('mmseg')


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['whole', 'refused'])
def test_tools_begin_with_their_own_words(repository, shapes_root, tmp_path, kind):
    if kind == 'whole':
        command = ['make_shapes_dataset.py', shapes_root, '--num-train', '12', '--num-val', '4']
        command += ['--size', '64']
    else:
        command = ['train.py', 'gone.py', '--work-dir', tmp_path]
    run = subprocess.run(
        [sys.executable, repository / 'tools' / command[0], *command[1:]],
        capture_output=True,
        text=True,
    )
    assert (run.returncode == 0) == (kind == 'whole')
    printed = run.stdout + run.stderr
    assert printed.count('\n') == 1, printed
    assert printed.startswith(('12 training and 4 validation pairs', "train.py: config 'gone.py'"))
