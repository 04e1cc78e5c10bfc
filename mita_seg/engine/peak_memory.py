"""How much memory a training run takes."""

import sys

import torch
from mmengine.hooks import Hook

# Searches for algorithms come before these iterations; a CUDA graph's memory is in use in the ones
# that record it alone.
_WATCHED_ITERATIONS = range(1, 10)


class PeakMemoryHook(Hook):
    """Notes the peak memory of this process in training, in ``peak_bytes``; None without any.

    MMEngine's log starts the CUDA allocator's count anew with every line, so that its last peak is
    not that of the run.
    """

    priority = 'VERY_HIGH'  # before the log

    def __init__(self):
        self.peak_bytes = self._first = None

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Forget the first iteration."""
        if self._first is None:
            self._first = runner.iter
        if runner.iter - self._first == _WATCHED_ITERATIONS[0] and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Look at the first iterations."""
        if runner.iter - self._first in _WATCHED_ITERATIONS:
            self._look()

    def after_train(self, runner):
        """Look before evaluation adds its own."""
        if self._first is not None:
            self._look()

    def _look(self):
        self.peak_bytes = max(self.peak_bytes or 0, peak_memory())


def peak_memory():
    """Bytes: the peak of the CUDA allocator, or of the resident set where there is no GPU.

    0 where the system does not count the latter, as Windows.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == 'darwin' else 2**10)
