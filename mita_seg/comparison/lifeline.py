"""Processes that end when the one that started them is gone, however it went."""

import os
import subprocess
import sys
import threading


def start_attached(module, arguments, log, environment):
    """Run a module in a process of its own.

    Args:
        module (str): Its name; it has to call :func:`end_with_parent`.
        arguments (Sequence[str]): Its command line.
        log (TextIO): What it prints goes there.
        environment (dict[str, str]): Its environment variables.

    Returns:
        subprocess.Popen: The process.
    """
    # A session of its own: Ctrl-C reaches the main process only, which then ends the others. The
    # pipe tells them when the main process is gone.
    return subprocess.Popen(
        [sys.executable, '-m', module, *arguments],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )


def end_with_parent():
    """End this process when the main one is gone: its end closes our stdin."""

    def watch():
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
