import os
import subprocess
import sys
import time

import pytest


@pytest.fixture(scope='session')
def two_processes(repository, shapes_root, tmp_path_factory):
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
            error = _run(folder, repository, shapes_root)
        finally:
            ended.with_suffix('.tmp').write_text(error)
            ended.with_suffix('.tmp').rename(ended)
    error = ended.read_text()
    assert not error, error
    return folder


def _run(folder, repository, shapes_root):
    """Run both processes; what they say if one fails."""
    tests = os.pathsep.join((str(repository / 'tests'), os.environ['PYTHONPATH']))
    variables = {**os.environ, 'PYTHONPATH': tests, 'CUDA_VISIBLE_DEVICES': '-1'}
    logs = [folder / f'{rank}.log' for rank in range(2)]
    processes = []
    for rank, log in enumerate(logs):
        command = [sys.executable, '-m', 'support.process_runs', str(rank), '2']
        with log.open('w') as file:
            processes.append(
                subprocess.Popen(
                    [*command, folder, shapes_root],
                    cwd=folder,
                    env=variables,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        # One that waits for another that has failed would wait for half an hour.
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(process.returncode for process in processes):
        return '\n'.join(log.read_text()[-5000:] for log in logs)
    return ''
