"""Running runs in processes of their own, a few at a time, and showing how far they are."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from mita_seg.utils.files import read_json
from mita_seg.utils.threads import thread_variables, threads_per_job

from .results import short_names

_POLL_SECONDS = 0.2
_TAIL_LINES = 15
_SECONDS_BETWEEN_LINES = 15  # of a display without bars

DISK_FULL = 28  # exit status of a process that could not write
_UNWRITTEN = (DISK_FULL, 120)  # 120: Python's own, of one that could not even write to its log


class Failure(Exception):
    """A process ended badly; its text is the end of the log."""


def run_workers(runs, jobs):
    """Train and evaluate runs, at most ``jobs`` at a time.

    Args:
        runs (Sequence[Run]): What is left to do.
        jobs (int): Number of processes at a time.

    Returns:
        dict[Run, str]: The runs that failed, with the end of their logs.

    Raises:
        OSError: The disk is full; all runs are ended.
    """
    waiting, active, failures = list(runs), {}, {}
    free = list(range(jobs))
    labels = _labels(runs)
    threads = threads_per_job(jobs)
    with make_display() as display:
        try:
            while waiting or active:
                while waiting and free:
                    run, slot = waiting.pop(0), free.pop(0)
                    active[run] = (slot, _start(run, slot, threads))
                for run, (slot, process) in list(active.items()):
                    status = process.poll()
                    if status is None:
                        state = read_json(run.folder / 'progress.json') or {'state': 'starting'}
                    else:
                        free.append(slot)
                        del active[run]
                        _check_disk(status, run.folder)
                        state = {
                            'state': 'failed' if status else 'evaluated',
                            'step': 1,
                            'steps': 1,
                        }
                        if status:
                            failures[run] = _tail(run.folder / 'log.txt')
                    display.update(labels[run], state)
                time.sleep(_POLL_SECONDS)
        finally:
            for _, process in active.values():
                process.kill()
                process.wait()
    return failures


def measure_runs(runs, jobs, train):
    """Time evaluated runs with nothing else running.

    Args:
        runs (Sequence[Run]): Evaluated runs.
        jobs (int): How many were trained at a time; timing uses as many threads as training did.
        train (bool): Time training iterations too.

    Raises:
        Failure: A run could not be measured; the others were.
        OSError: The disk is full.
    """
    log = runs[0].work_dir / 'measure.log'
    arguments = [] if train else ['--no-training']
    arguments += [str(run.folder) for run in runs]
    environment = _environment(threads_per_job(jobs))
    with open(log, 'w') as output:
        process = start_attached('mita_seg.comparison.measure', arguments, output, environment)
        try:
            status = process.wait()
        finally:
            process.kill()
            process.wait()
    _check_disk(status, log.parent)
    if status:
        raise Failure(_tail(log))


def _check_disk(status, folder):
    """Raise the error that a process ended with, if that was of a full disk."""
    if status in _UNWRITTEN:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _labels(runs):
    configs = list(dict.fromkeys(run.name for run in runs))
    short = dict(zip(configs, short_names(configs), strict=True))
    return {run: f'{short[run.name]} seed {run.seed}' for run in runs}


def _start(run, slot, threads):
    arguments = ['--work-dir', str(run.work_dir), '--config', str(run.config)]
    arguments += ['--folder', str(run.folder), '--seed', str(run.seed)]
    arguments += [] if run.checkpoint is None else ['--checkpoint', str(run.checkpoint)]
    environment = _environment(threads)
    devices = _cuda_devices()
    if devices:
        environment['CUDA_VISIBLE_DEVICES'] = devices[slot % len(devices)]
    with open(run.folder / 'log.txt', 'a') as log:
        return start_attached('mita_seg.comparison.single_run', arguments, log, environment)


def _environment(threads):
    return {**os.environ, **thread_variables(threads)}


def _cuda_devices():
    import torch

    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if visible:
        return visible.split(',')
    return [str(index) for index in range(torch.cuda.device_count())]


def _tail(path):
    return '\n'.join(Path(path).read_text(errors='replace').splitlines()[-_TAIL_LINES:])


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
