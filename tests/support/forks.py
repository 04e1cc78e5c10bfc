"""Calls in forks of this process, which save the seconds of imports."""

import os
import signal
import sys
import traceback


def exit_status(function):
    """Call a function as a program would; what it raises is printed.

    Args:
        function (Callable[[], int | None]): Returns an exit status, or exits.

    Returns:
        int: The exit status.
    """
    try:
        return function() or 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


class Fork:
    """What of ``subprocess.Popen`` is needed, for a call.

    Args:
        function (Callable[[], int | None]): As for :func:`exit_status`.
    """

    def __init__(self, function):
        self.status = None
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                status = exit_status(function)
            finally:
                os._exit(status)

    def poll(self, options=os.WNOHANG):
        """The exit status; None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def wait(self):
        """Wait for the end; returns the exit status."""
        return self.poll(0)

    def kill(self):
        """End it at once."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
