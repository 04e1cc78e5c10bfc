"""On what the figures of a comparison were taken, and how."""

import torch

from mita_seg.utils import environment


def describe_environment():
    """Describe device, versions, threads, date and how the figures were taken.

    Returns:
        dict[str, str | int]: For ``environment`` in ``results.json``.
    """
    return {
        **environment.describe_environment(),
        'timing': 'after all training, one model at a time, without data loading',
        'peak_mem_mb': (
            'peak of the CUDA allocator in training (--test-only: in evaluation)'
            if torch.cuda.is_available()
            else 'peak resident set of the training (--test-only: evaluating) process'
        ),
    }
