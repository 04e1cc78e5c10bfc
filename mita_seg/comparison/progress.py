"""How a worker tells where it is: a small file that the main process reads."""

import resource
import sys
import time

import torch
from mmengine.hooks import Hook

from mita_seg.files import read_json, write_json

_SECONDS_BETWEEN_WRITES = 0.5
# Searches for algorithms come before these iterations. A CUDA graph's memory is not in use any more
# after them.
_WATCHED_ITERATIONS = range(1, 10)


class ProgressHook(Hook):
    """Writes state, iteration, loss and remaining seconds to a file.

    Args:
        path (str | os.PathLike): The file, ``progress.json`` of a run.
    """

    priority = 'LOWEST'

    def __init__(self, path):
        self.path = path
        self.written = 0.0
        self.started = self.first = None
        # Kept from the process that trained, if this one only evaluates.
        self.peak_mem_mb = (read_json(path) or {}).get('peak_mem_mb')

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Start the clock at the first iteration of this process."""
        if self.started is None:
            self.started, self.first = time.monotonic(), runner.iter
        if runner.iter - self.first == _WATCHED_ITERATIONS[0]:
            self.peak_mem_mb = None
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Report an iteration."""
        if runner.iter - self.first in _WATCHED_ITERATIONS:
            self._watch_memory()
        if time.monotonic() - self.written < _SECONDS_BETWEEN_WRITES:
            return
        done = runner.iter + 1
        seconds = (time.monotonic() - self.started) / (done - self.first)
        loss = (outputs or {}).get('loss')
        self._write(
            'training',
            done,
            runner.max_iters,
            loss=None if loss is None else float(loss),
            eta_s=seconds * (runner.max_iters - done),
        )

    def after_train(self, runner):
        """Remember the peak memory of training, before evaluation adds its own."""
        if self.started is not None:
            self._watch_memory()
        self._write('trained', runner.iter, runner.max_iters)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Report an evaluated batch."""
        if time.monotonic() - self.written >= _SECONDS_BETWEEN_WRITES:
            self._write('evaluating', batch_idx + 1, len(runner.test_dataloader))

    def _watch_memory(self):
        self.peak_mem_mb = max(self.peak_mem_mb or 0, peak_memory_mb())

    def _write(self, state, step, steps, **more):
        self.written = time.monotonic()
        progress = {'state': state, 'step': step, 'steps': steps, 'peak_mem_mb': self.peak_mem_mb}
        write_json(self.path, {**progress, **more})


def peak_memory_mb():
    """Peak memory of this process in MiB: of the CUDA allocator, or the resident set on the CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == 'darwin' else 2**10)
