import os
import time

import pytest

from support.process_groups import run_processes


@pytest.fixture(scope='session')
def two_processes(shapes_root, tmp_path_factory):
    """The folder in which two processes have run support/process_runs.py, once for all tests."""
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent  # which the workers of a session share
    folder = folder / 'two_processes'
    ended = folder / 'ended.txt'
    try:
        folder.mkdir()
    except FileExistsError:
        while not ended.exists():
            time.sleep(0.1)
    else:
        error = 'interrupted'
        try:
            options = ('--data', shapes_root)
            error = run_processes(2, folder, *options, CUDA_VISIBLE_DEVICES='-1')
        finally:
            ended.with_suffix('.tmp').write_text(error)
            ended.with_suffix('.tmp').rename(ended)
    error = ended.read_text()
    assert not error, error
    return folder
