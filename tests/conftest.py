"""What all tests share: one thread, a fixed seed, real data if any, a tiny data set, a wheel."""

import os
import platform
import subprocess
import sys
from pathlib import Path

# Products must round alike from either side, as on a GPU: the backward pass repeats scores of the
# forward pass with queries and keys exchanged. NumPy's, for the interpreter, do not with AVX2.
# OpenBLAS reads this once, when it is loaded.
if platform.machine() in ('x86_64', 'AMD64'):
    os.environ['OPENBLAS_CORETYPE'] = 'Nehalem'

import pytest
import torch

if not torch.cuda.is_available():
    # Triton's kernels run in its interpreter then. It reads this once, when it is imported.
    os.environ['TRITON_INTERPRET'] = '1'

ROOT = Path(__file__).resolve().parent.parent
# Processes that the tests start find the repository, beside what they find already.
os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, (str(ROOT), os.getenv('PYTHONPATH'))))


@pytest.fixture(autouse=True, scope='session')
def one_thread():
    """Keep parallel test processes from sharing the cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def repository():
    """The folder that holds configs/ and tools/."""
    return ROOT


@pytest.fixture(scope='session')
def data_root():
    """The folder with real data that MITA_SEG_DATA names."""
    folder = os.environ.get('MITA_SEG_DATA')
    if not folder:
        pytest.skip('MITA_SEG_DATA names no folder with real data')
    if not Path(folder).is_dir():
        pytest.skip(f'MITA_SEG_DATA names {folder}, which is no folder')
    return Path(folder)


@pytest.fixture(scope='session')
def ade20k_samples(data_root):
    """A few real ADE20K files in the layout of the full data set."""
    folder = data_root / 'ade20k-samples'
    if not folder.is_dir():
        pytest.skip(f'{data_root} holds no ade20k-samples')
    return folder


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory):
    """A generated data set of 12 training and 4 validation images, 64x64 pixels."""
    folder = tmp_path_factory.mktemp('shapes') / 'shapes'
    command = [sys.executable, ROOT / 'tools/make_shapes_dataset.py', folder]
    command += ['--num-train', '12', '--num-val', '4', '--size', '64', '--seed', '0']
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    """The wheel of this repository, built offline."""
    pytest.importorskip('hatchling', reason='hatchling, which builds the wheel, is not installed')
    folder = tmp_path_factory.mktemp('wheel')
    command = [
        sys.executable,
        '-m',
        'hatchling',
        'build',
        '--target',
        'wheel',
        '--directory',
        folder,
    ]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    (path,) = folder.glob('*.whl')
    return path
