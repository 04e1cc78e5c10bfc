"""Starting the processes of support/process_runs.py and waiting for them."""

import os
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent


def run_processes(count, folder, *options, **variables):
    """Run all processes of a group; one that fails ends the others.

    Returns:
        str: What they have said if one has failed, else nothing.
    """
    path = os.pathsep.join((str(TESTS), os.environ['PYTHONPATH']))
    variables = {**os.environ, 'PYTHONPATH': path, **variables}
    logs = [folder / f'{rank}.log' for rank in range(count)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            command = [sys.executable, '-m', 'support.process_runs', str(rank), str(count), folder]
            with log.open('w') as file:
                processes.append(
                    subprocess.Popen(
                        [*command, *options],
                        cwd=folder,
                        env=variables,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break  # the others would wait for it
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(process.returncode for process in processes):
        return '\n'.join(log.read_text()[-5000:] for log in logs)
    return ''
