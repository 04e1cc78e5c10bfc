"""Runs command-line programs, each in a fork of a process that has imported what they import.

A fork starts as a program of its own does, without the seconds that importing MMSegmentation takes.
``python forked_programs.py MODULE...`` imports modules. Each line of its input is a JSON object of
``command`` ([program, arguments...]), ``folder`` and ``variables``; each line that it prints is a
JSON list of the exit status and of what the program printed. An empty line ends it.
"""

import contextlib
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback


class ForkedPrograms:
    """The process whose forks run the programs.

    Args:
        python (Path): Its interpreter.
        modules (Sequence[str]): What it imports first.
        variables (Mapping[str, str]): Its environment variables.
    """

    def __init__(self, python, modules, variables):
        command = [str(python), __file__, *modules]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )

    def run(self, *command, cwd='.', variables=None):
        """Run a Python program with arguments; returns its exit status and what it printed.

        Args:
            command (str | Path): The program's file and its arguments.
            cwd (str | Path): The folder that it works in.
            variables (Mapping[str, str], optional): Its environment; by default the present one.
        """
        request = {
            'command': list(map(str, command)),
            'folder': os.path.abspath(cwd),
            'variables': dict(os.environ if variables is None else variables),
        }
        self.process.stdin.write(json.dumps(request) + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        """End the process.

        That its input ends it would not see while a process that was forked here since, such as a
        data loader's, holds the other end of the pipe.
        """
        self.process.communicate('\n')


def run(command, folder, variables):
    """The exit status of a program in a process of its own, and what it printed."""
    with tempfile.TemporaryFile('w+') as output, open(os.devnull) as nothing:
        child = os.fork()
        if not child:
            for descriptor, file in enumerate((nothing, output, output)):
                os.dup2(file.fileno(), descriptor)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(variables)
            _run_and_exit(command)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return status, output.read()


def _run_and_exit(command):
    status = 1
    try:
        sys.argv = command
        added = filter(None, os.environ.get('PYTHONPATH', '').split(os.pathsep))
        sys.path[:0] = [os.path.dirname(command[0]), *added]
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
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what an import prints is no answer
    for name in sys.argv[1:]:
        # torchvision, which Grad-CAM imports, has no build beside a CPU build of torch.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if 'torch' in sys.modules:
        sys.modules['torch'].set_num_threads(1)
    for line in sys.stdin:
        if line == '\n':
            break
        print(json.dumps(run(**json.loads(line))), file=answers, flush=True)
