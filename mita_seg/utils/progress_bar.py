"""A bar on the terminal for work of known length."""

import contextlib
import sys


@contextlib.contextmanager
def progress_bar(total, unit):
    """Show how much is done, on stderr where that is a terminal.

    Args:
        total (int): Number of steps.
        unit (str): What a step is, in the plural.

    Yields:
        Callable[[], None]: To be called after each step.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), Remaining())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(unit, total=total)
        yield lambda: progress.advance(task)
