"""Processes share the cores of a machine; few threads are enough beside a GPU."""

import subprocess
import sys

import pytest

from mita_seg.utils import threads as module


@pytest.mark.parametrize('asked, threads', [(None, 3), ('5', 5), ('0', 3), ('4,2', 3)])
def test_jobs_share_the_cores_unless_told_otherwise(monkeypatch, asked, threads):
    monkeypatch.setattr(module, 'usable_cores', lambda: 6)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    if asked is not None:
        monkeypatch.setenv('OMP_NUM_THREADS', asked)
    assert module.threads_per_job(2) == threads
    assert module.threads_per_job(100) == (5 if asked == '5' else 1)


# A machine of 16 cores, with or without a GPU, and what is asked for.
_CHOICE = """
import os, sys
import torch
from mita_seg.utils import threads
gpu, asked = sys.argv[1:]
torch.cuda.is_available = lambda: gpu == 'gpu'
threads.usable_cores = lambda: 16
torch.set_num_threads(16)
os.environ.pop('OMP_NUM_THREADS', None)
if asked:
    os.environ['OMP_NUM_THREADS'] = asked
threads.limit_threads_beside_gpu()
a = torch.randn(200, 200) @ torch.randn(200, 200)  # starts the threads
inherited = {key: os.environ.get(key) for key in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')}
print(torch.get_num_threads(), inherited['OMP_NUM_THREADS'])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ('gpu', 'asked', 'chosen'),
    [('gpu', '', '2 2'), ('none', '', '16 None'), ('gpu', '7', '16 7'), ('none', '7', '16 7')],
)
def test_few_threads_beside_a_gpu_and_all_without(gpu, asked, chosen):
    """Where OMP_NUM_THREADS is set, torch has read it, and nothing is changed."""
    run = subprocess.run(
        [sys.executable, '-c', _CHOICE, gpu, asked], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == chosen
