"""MMSegmentation's own tools and functions, with our configs and checkpoints as they are."""

import json
import os
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmseg')

import mmseg
import torch
from mmseg.apis import MMSegInferencer, inference_model, init_model, show_result_pyplot
from PIL import ExifTags, Image

from mita_seg.datasets import LoadCheckedImage
from support.forked_programs import ForkedPrograms

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
CONFIG = next((ROOT / 'configs/mita_segmenter_shapes').glob('*_mita-encdec_*.py'))
TOOLS = Path(mmseg.__file__).parent / '.mim/tools'
_TINY = f"""
_base_ = {str(CONFIG)!r}
crop_size = (64, 64)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor, backbone=dict(img_size=crop_size, num_layers=1))
train_dataloader = dict(batch_size=2, dataset=dict(data_root='shapes'))
val_dataloader = dict(dataset=dict(data_root='shapes'))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1))
"""
# Name -> program and arguments. The benchmark wants 200 images.
COMMANDS = {
    'train': [ROOT / 'tools/train.py', 'tiny.py', '--work-dir', 'run'],
    'predictions': [
        *(ROOT / 'tools/test.py', 'tiny.py', 'run/iter_2.pth'),
        *('--work-dir', 'tested', '--out', 'predictions'),
    ],
    'browse_dataset': [
        *('analysis_tools/browse_dataset.py', 'tiny.py'),
        *('--output-dir', 'browsed', '--not-show'),
        *('--cfg-options', 'train_dataloader.dataset.indices=2'),
    ],
    'misc_browse_dataset': [
        *('misc/browse_dataset.py', 'tiny.py', '--output-dir', 'browsed_too', '--not-show'),
        *('--cfg-options', 'train_dataloader.dataset.indices=2'),
    ],
    'get_flops': ['analysis_tools/get_flops.py', 'tiny.py', '--shape', '64', '64'],
    'benchmark': [
        *('analysis_tools/benchmark.py', 'many.py', 'run/iter_2.pth'),
        *('--work-dir', 'timed', '--log-interval', '200'),
    ],
    'analyze_logs': [
        *('analysis_tools/analyze_logs.py', 'run/log.json'),
        *('--keys', 'loss', '--backend', 'agg', '--out', 'curve.png'),
    ],
    'confusion_matrix': [
        *('analysis_tools/confusion_matrix.py', 'tiny.py', 'predictions', 'confusion'),
    ],
    'publish_model': ['misc/publish_model.py', 'run/iter_2.pth', 'published.pth'],
    'visualization_cam': [
        *('analysis_tools/visualization_cam.py', 'image.jpg', 'tiny.py', 'run/iter_2.pth'),
        *('--device', 'cpu', '--category-index', '1'),
        *('--target-layers', 'backbone.out_map', '--cam-file', 'cam.png'),
    ],
}
# What each leaves.
FILES = {
    'train': 'run/iter_2.pth',
    'predictions': 'predictions/*.png',
    'browse_dataset': 'browsed/*.jpg',
    'misc_browse_dataset': 'browsed_too/vis_data/vis_image/*.png',
    'benchmark': 'timed/fps_*.json',
    'analyze_logs': 'curve.png',
    'confusion_matrix': 'confusion/confusion_matrix.png',
    'publish_model': 'published-*.pth',
    'visualization_cam': 'cam.png',
}
NEEDED = {'analyze_logs': 'seaborn', 'visualization_cam': 'pytorch_grad_cam'}
# Upstream's last release, which the maintained packages have mended.
UPSTREAM_FAULTS = {
    'get_flops': 'gives mmengine two arguments of which it takes one',
    'confusion_matrix': 'subtracts the zero label twice',
    'browse_dataset': 'draws into an array that OpenCV 5 refuses',
    'misc_browse_dataset': 'draws into an array that OpenCV 5 refuses',
}
COUNTS = {'predictions': 4, 'browse_dataset': 2, 'misc_browse_dataset': 2}


@pytest.fixture(scope='module')
def folder(tmp_path_factory, shapes_root):
    """Where every program has run that can, and what became of it, in ``found.json``."""
    folder = tmp_path_factory.mktemp('stock')
    (folder / 'shapes').symlink_to(shapes_root)
    (folder / 'tiny.py').write_text(_TINY)
    many = "_base_ = 'tiny.py'\ntest_dataloader = dict(dataset=dict(data_root='many'))\n"
    (folder / 'many.py').write_text(many)
    for part in ('images', 'annotations'):
        target = folder / 'many' / part / 'validation'
        target.mkdir(parents=True)
        file = sorted((shapes_root / part / 'validation').iterdir())[0]
        for index in range(200):
            (target / f'{index}{file.suffix}').symlink_to(file)
    image = sorted((shapes_root / 'images/validation').iterdir())[0]
    shutil.copy(image, folder / 'image.jpg')
    variables = {**os.environ, 'MPLBACKEND': 'agg', 'OMP_NUM_THREADS': '1'}
    programs = ForkedPrograms(sys.executable, ['mmseg.apis', 'torchvision_operators'], variables)
    found = {}
    for name, (program, *arguments) in COMMANDS.items():
        if name not in NEEDED or find_spec(NEEDED[name]):
            command = (TOOLS / program, *arguments)  # ours are absolute
            found[name] = programs.run(*command, cwd=folder, variables=variables)
        if name == 'train':
            (log,) = folder.glob('run/*/vis_data/2*.json')  # its name is its time
            shutil.copy(log, folder / 'run/log.json')
    programs.end()
    (folder / 'found.json').write_text(json.dumps(found))
    return folder


@pytest.mark.parametrize('name', COMMANDS)
def test_tool(folder, name):
    program = TOOLS / COMMANDS[name][0]
    if not program.exists():
        pytest.skip(f'{program} is not installed')
    if name in NEEDED and not find_spec(NEEDED[name]):
        pytest.skip(f'{NEEDED[name]} is not installed')
    if mmseg.__version__ == '1.2.2' and name in UPSTREAM_FAULTS:
        pytest.skip(f'MMSegmentation 1.2.2: {name} {UPSTREAM_FAULTS[name]}')
    status, printed = json.loads((folder / 'found.json').read_text())[name]
    assert status == 0, printed
    if name in FILES:
        assert len(list(folder.glob(FILES[name]))) == COUNTS.get(name, 1), printed
    if name == 'get_flops':
        weights = torch.load(folder / 'run/iter_2.pth')['state_dict']
        counted = float(re.search(r'Params: ([.\d]+)M', printed)[1])
        assert counted == pytest.approx(sum(map(torch.numel, weights.values())) / 1e6, abs=6e-4)
    if name == 'publish_model':
        published = torch.load(next(folder.glob(FILES[name])))
        assert 'optimizer' not in published and 'state_dict' in published


@pytest.fixture
def turned(folder, tmp_path):
    """A picture that is stored turned by a quarter, and the pixels as stored (BGR)."""
    path = tmp_path / 'turned.png'
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    pixels = Image.open(folder / 'image.jpg').resize((96, 64))
    pixels.save(path, exif=exif)
    return str(path), np.asarray(pixels)[..., ::-1].copy()


@pytest.fixture
def model(folder):
    return init_model(str(folder / 'tiny.py'), str(folder / 'run/iter_2.pth'), device='cpu')


def test_inferencer(folder, turned, model, tmp_path):
    path, pixels = turned
    config, weights = str(folder / 'tiny.py'), str(folder / 'run/iter_2.pth')
    inferencer = MMSegInferencer(config, weights, device='cpu')
    found = inferencer([path, pixels], return_vis=True, out_dir=str(tmp_path / 'out'))
    expected = inference_model(model, pixels)
    labels = expected.pred_sem_seg.data[0].numpy()
    # Predicted and drawn as stored, from the file and from its pixels.
    assert all(np.array_equal(one, labels) for one in found['predictions'])
    (drawn,) = inferencer.visualize([pixels[..., ::-1]], [expected], return_vis=True)
    assert np.array_equal(found['visualization'][0], drawn)
    assert len(list((tmp_path / 'out/pred').iterdir())) == 2


def test_inferencer_checks_what_it_loads(folder, tmp_path):
    config, weights = str(folder / 'tiny.py'), str(folder / 'run/iter_2.pth')
    inferencer = MMSegInferencer(config, weights, device='cpu')
    assert type(inferencer.pipeline.transforms[0].from_file) is LoadCheckedImage
    (tmp_path / 'text.jpg').write_text('no image')
    with pytest.raises(ValueError, match=r"image '.*text\.jpg' cannot be decoded"):
        inferencer(str(tmp_path / 'text.jpg'))


@pytest.mark.parametrize('kind', ['path', 'pixels', 'list'])
def test_inference_and_picture(folder, model, kind, tmp_path):
    image = str(folder / 'image.jpg')
    pixels = np.asarray(Image.open(image))[..., ::-1].copy()
    given = {'path': image, 'pixels': pixels, 'list': [image, image]}[kind]
    result = inference_model(model, given)
    if kind == 'list':
        assert len(result) == 2
        given, result = image, result[0]
    out = tmp_path / 'drawn.png'
    drawn = show_result_pyplot(model, given, result, show=False, out_file=str(out))
    assert drawn.shape == pixels.shape and out.exists()
