"""``tools/compare.py`` and its workers as forks of this process, which save seconds of imports."""

import importlib
import os
import runpy
import signal
import sys

from mita_seg.comparison import measure, single_run, workers  # noqa: F401  (imported once)
from support.forks import Fork

_pipes = []  # whose ends must not stay open in workers: they tell that the main process is gone


def start_attached(module, arguments, log, environment):
    """As that of ``mita_seg.comparison.workers``, without a new interpreter."""
    reader, writer = os.pipe()
    _pipes.append(writer)

    def work():
        os.setsid()
        for descriptor, file in enumerate((reader, log.fileno(), log.fileno())):
            os.dup2(file, descriptor)
        for each in _pipes:
            os.close(each)
        os.environ.update(environment)
        workers.end_with_parent()
        importlib.import_module(module).main(arguments)

    fork = Fork(work)
    os.close(reader)
    return fork


def start_compare(tool, arguments, output):
    """Start the tool in a group of its own.

    Args:
        tool (Path): ``tools/compare.py``.
        arguments (Sequence[str]): Its command line.
        output (BinaryIO): What it prints goes there.

    Returns:
        Fork: The process.
    """

    def work():
        os.setsid()
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
        sys.stdout, sys.stderr = (os.fdopen(number, 'w', closefd=False) for number in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        workers.start_attached = start_attached
        sys.argv = [str(tool), *arguments]
        runpy.run_path(str(tool), run_name='__main__')

    return Fork(work)
