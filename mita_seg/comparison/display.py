"""Showing how far the runs are: bars on a terminal, plain lines elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

_SECONDS_BETWEEN_LINES = 15


def make_display():
    """Return the display that suits stdout; a context manager with ``update(name, state)``."""
    return Bars() if sys.stdout.isatty() else Lines()


class Bars:
    """One bar a run."""

    def __init__(self):
        self.progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn('{task.fields[details]}'),
            console=Console(),
            refresh_per_second=4,
        )
        self.tasks = {}

    def __enter__(self):
        self.progress.start()
        return self

    def __exit__(self, *error):
        self.progress.stop()

    def update(self, name, state):
        """Show a run's state: ``state``, ``step``, ``steps``, ``loss`` and ``eta_s``, if known."""
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=None, details='')
        self.progress.update(
            self.tasks[name],
            completed=state.get('step', 0),
            total=state.get('steps'),
            details=describe(state),
        )


class Lines:
    """A line whenever a run changes its state, and every few seconds."""

    def __init__(self):
        self.shown = {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self, name, state):
        """Print a run's state if it is news."""
        last_state, last_time = self.shown.get(name, (None, 0.0))
        now = time.monotonic()
        steps_moved = state['state'] == 'training' and now - last_time > _SECONDS_BETWEEN_LINES
        if state['state'] != last_state or steps_moved:
            self.shown[name] = (state['state'], now)
            print(f'{name}: {describe(state)}', flush=True)


def describe(state):
    """One line for a state, such as ``training 40/400, loss 1.23, 0:42 left``."""
    text = state['state']
    if state.get('steps') and text in ('training', 'evaluating'):
        text += f' {state["step"]}/{state["steps"]}'
    if state.get('loss') is not None:
        text += f', loss {state["loss"]:.3f}'
    if state.get('eta_s') is not None:
        minutes, seconds = divmod(int(state['eta_s']), 60)
        text += f', {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left'
    return text
