"""Runs command-line programs one by one, each in a fork of a process that has imported the rest.

A fork starts as a program of its own does, without the seconds that importing MMSegmentation takes.
``python stock_tools.py FILE``: FILE holds a JSON list of [program, arguments...]; their exit
statuses and what they print is written in its place.
"""

import contextlib
import json
import os
import runpy
import sys
import traceback
from pathlib import Path

import mmseg.apis  # noqa: F401
import torch

# torchvision, which Grad-CAM imports, has no build beside a CPU build of torch.
with contextlib.suppress(ImportError):
    import torchvision_operators  # noqa: F401


def run(command, output):
    """The exit status of a program in a process of its own."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    with open(output, 'w') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            sys.argv = command
            runpy.run_path(command[0], run_name='__main__')
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


if __name__ == '__main__':
    torch.set_num_threads(1)
    path = Path(sys.argv[1])
    found = []
    for command in json.loads(path.read_text()):
        status = run(command, 'output.txt')
        found.append([status, Path('output.txt').read_text()])
    path.write_text(json.dumps(found))
