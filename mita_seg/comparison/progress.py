"""How a worker tells where it is: a small file that the main process reads."""

import time

from mmengine.hooks import Hook

from mita_seg.utils.files import read_json, write_json

_SECONDS_BETWEEN_WRITES = 0.5


class ProgressHook(Hook):
    """Writes state, iteration, loss and remaining seconds to a file.

    Args:
        path (str | os.PathLike): The file, ``progress.json`` of a run.
        memory (PeakMemoryHook): Registered in the same runner; its figure is kept in the file.
    """

    priority = 'LOWEST'

    def __init__(self, path, memory):
        self.path = path
        self.memory = memory
        self.written = 0.0
        self.started = self.first = None
        # Kept from the process that trained, if this one only evaluates.
        self.peak_mem_mb = (read_json(path) or {}).get('peak_mem_mb')

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Start the clock at the first iteration of this process."""
        if self.started is None:
            self.started, self.first = time.monotonic(), runner.iter

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Report an iteration."""
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
        """Keep the peak memory of training."""
        if self.started is not None:
            self.peak_mem_mb = self.memory.peak_bytes / 2**20
        self._write('trained', runner.iter, runner.max_iters)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Report an evaluated batch."""
        if time.monotonic() - self.written >= _SECONDS_BETWEEN_WRITES:
            self._write('evaluating', batch_idx + 1, len(runner.test_dataloader))

    def _write(self, state, step, steps, **more):
        self.written = time.monotonic()
        progress = {'state': state, 'step': step, 'steps': steps, 'peak_mem_mb': self.peak_mem_mb}
        write_json(self.path, {**progress, **more})
