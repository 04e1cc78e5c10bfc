"""What all tests share: one thread, a fixed seed, real data if any, a tiny data set, a wheel."""

import importlib.util
import os
import platform
import shutil
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

from support.forked_programs import ForkedPrograms
from support.quick_interpreter import quicken

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


@pytest.fixture(autouse=True, scope='session')
def quick_interpreter():
    if os.environ.get('TRITON_INTERPRET') == '1' and importlib.util.find_spec('triton'):
        quicken()


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
def programs():
    """Runs programs in processes that have imported MMSegmentation, as ``run(*command)``."""
    forked = ForkedPrograms(sys.executable, ['mmseg.apis'], dict(os.environ))
    yield forked
    forked.end()


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


@pytest.fixture(scope='session')
def trained(tmp_path_factory, repository, shapes_root):
    """A config of a tiny segmentor and a checkpoint as training writes one, weights random."""
    pytest.importorskip('mmseg')
    import torch
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    from mita_seg.datasets.shapes import CLASSES, PALETTE
    from mita_seg.utils.cli import load_config

    folder = tmp_path_factory.mktemp('trained')
    (base,) = (repository / 'configs/mita_segmenter_shapes').glob('*_mita-encdec_*.py')
    config = folder / 'config.py'
    config.write_text(
        f"""
_base_ = {str(base)!r}
model = dict(
    backbone=dict(img_size=(64, 64), num_layers=1, embed_dims=48),
    decode_head=dict(in_channels=48, channels=48, embed_dims=48))
tta_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mita_seg'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (1.0, 1.25)],
        [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)],
        [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
"""
    )
    cfg = load_config(str(config))
    init_default_scope('mmseg')
    torch.manual_seed(0)
    weights = MODELS.build(cfg.model).state_dict()
    # Random logits are nearly equal: the classes of an untrained model would hang on rounding.
    weights = {key: value * (3 if 'weight' in key else 1) for key, value in weights.items()}
    meta = {'classes': CLASSES, 'palette': PALETTE, 'reduce_zero_label': True}
    torch.save({'state_dict': weights, 'meta': {'dataset_meta': meta}}, folder / 'weights.pth')
    return str(config), str(folder / 'weights.pth')


@pytest.fixture
def pictures(tmp_path, shapes_root):
    """A folder of six images, two of one name and one that is truncated."""
    folder = tmp_path / 'pictures'
    images = sorted((shapes_root / 'images/training').iterdir())
    for name, image in zip(
        ('a/1.jpg', 'b/1.JPG', 'b/2.jpg', '3.jpg', '4.jpg'), images, strict=False
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / name)
    (folder / 'broken.jpg').write_bytes(images[0].read_bytes()[:600])
    return folder
