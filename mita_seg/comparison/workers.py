"""Running workers in processes of their own, a few at a time."""

import os
import time
from pathlib import Path

from mita_seg.utils.files import read_json

from .display import make_display
from .lifeline import start_attached
from .names import short_names

_POLL_SECONDS = 0.2
_TAIL_LINES = 15


class Failure(Exception):
    """A process ended badly; its text is the end of the log."""


def run_workers(runs, jobs):
    """Train and evaluate runs, at most ``jobs`` at a time.

    Args:
        runs (Sequence[Run]): What is left to do.
        jobs (int): Number of processes at a time.

    Returns:
        dict[Run, str]: The runs that failed, with the end of their logs.
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
    if status:
        raise Failure(_tail(log))


def threads_per_job(jobs):
    """Threads a training process gets, so that all of them together use every core once.

    ``OMP_NUM_THREADS`` says otherwise: a container may offer fewer cores than it shows.
    """
    asked = os.environ.get('OMP_NUM_THREADS', '')
    if asked.isdigit() and int(asked):
        return int(asked)
    return max(1, _usable_cores() // jobs)


def _usable_cores():
    """Cores that this process may run on, as far as the system tells."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    return {**os.environ, 'OMP_NUM_THREADS': str(threads), 'MKL_NUM_THREADS': str(threads)}


def _cuda_devices():
    import torch

    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if visible:
        return visible.split(',')
    return [str(index) for index in range(torch.cuda.device_count())]


def _tail(path):
    return '\n'.join(Path(path).read_text(errors='replace').splitlines()[-_TAIL_LINES:])
