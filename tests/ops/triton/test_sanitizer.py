"""NVIDIA's compute-sanitizer sees every kernel and finds nothing."""

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('triton')

import mita_seg.ops.triton
from mita_seg.ops.triton.call_plan import Plan
from support import every_kernel

TESTS = Path(__file__).resolve().parents[2]
SANITIZER = shutil.which('compute-sanitizer', path=f'{os.environ["PATH"]}:/usr/local/cuda/bin')


@pytest.mark.slow
@pytest.mark.long
def test_what_it_runs_is_every_kernel(monkeypatch):
    kernels = set()
    for module in pkgutil.iter_modules(mita_seg.ops.triton.__path__, 'mita_seg.ops.triton.'):
        names = vars(importlib.import_module(module.name))
        kernels |= {name for name in names if name.endswith('_kernel')}
    launched = set()
    launch = Plan.launch

    def note(plan, kernel, *args, **options):
        launched.add(kernel.__name__)
        launch(plan, kernel, *args, **options)

    monkeypatch.setattr(Plan, 'launch', note)
    every_kernel.run('cuda' if torch.cuda.is_available() else 'cpu', every_kernel.SMALL_CASES)
    assert launched == kernels


@pytest.mark.long
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.skipif(SANITIZER is None, reason='needs compute-sanitizer')
@pytest.mark.parametrize('tool', ['memcheck', 'racecheck', 'initcheck'])
def test_finds_nothing(tool):
    command = [SANITIZER, '--tool', tool, '--error-exitcode', '9']
    command += [sys.executable, '-m', 'support.every_kernel']
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run(
        command, env={**os.environ, 'PYTHONPATH': paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
