"""On a full disk every tool ends with one sentence, and no file is half written."""

import functools
import sys

import cv2
import numpy as np
import pytest

pytest.importorskip('mmseg')

from support.small_disk import call, can_mount

PIXELS = 16  # a side of a swatch of noise, which no format makes much smaller


@functools.cache
def mountable():
    return can_mount()


@pytest.fixture
def disk(tmp_path):
    """An empty folder, which is a disk of its own in calls."""
    if not mountable():
        pytest.skip('file systems of its own are refused to this process')
    folder = tmp_path / 'disk'
    folder.mkdir()
    return folder


@pytest.fixture
def video(tmp_path):
    path = tmp_path / 'noise.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 64))
    for frame in np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8):
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def arguments(tiny, shapes_configs, trained, shapes_root, pictures, video, disk):
    """The command line of each case."""
    config, checkpoint = trained
    (pictures / 'broken.jpg').unlink()
    data = ['--cfg-options', *(option for option in tiny if 'data_root' in option)]
    work_dir = ['--work-dir', str(disk / 'run')]
    model = [config, checkpoint]
    return {
        'train': [shapes_configs[1], *work_dir, '--resume', '--cfg-options', *tiny],
        'test': [*model, *work_dir, '--out', str(disk / 'out'), *data],
        'test --show-dir': [*model, *work_dir, '--show-dir', str(disk / 'out'), *data],
        'convert_checkpoint': [checkpoint, str(disk / 'a.pth'), '--overwrite'],
        'convert_checkpoint safetensors': [checkpoint, str(disk / 'a.safetensors'), '--overwrite'],
        'predict': [*model, str(pictures), '--out', str(disk / 'out')],
        'predict video': [*model, str(video), '--out', str(disk / 'out')],
        'export': [*model, '--out', str(disk / 'a.pt2'), '--format', 'torch-export', '--overwrite'],
        'export onnx': [*model, '--out', str(disk / 'a.onnx'), '--overwrite'],
        'make_shapes_dataset': [
            *(str(disk / 'shapes'), '--size', '64', '--num-train', '6', '--num-val', '2')
        ],
        'prepare_dataset': [str(shapes_root), '--out', str(disk / 'mine')],
        'complexity': [config, '--out', str(disk / 'out'), '--sizes', '64', '128'],
        'visualize_routing': [*model, str(pictures / '3.jpg'), '--out', str(disk / 'out')],
        'analyze_routing': [*model, *work_dir, '--images', '1', *data],
        'compare': [shapes_configs[1], *work_dir, '--no-timing', '--cfg-options', *tiny],
    }


CASES = [
    'train',
    'test',
    'test --show-dir',
    'convert_checkpoint',
    'convert_checkpoint safetensors',
    'predict',
    'predict video',
    'export',
    'export onnx',
    'make_shapes_dataset',
    'prepare_dataset',
    'complexity',
    'visualize_routing',
    'analyze_routing',
]


def check(ended, name, disk, whole):
    said = [line for line in ended.printed.splitlines() if 'no space left' in line.lower()]
    assert len(said) == 1, ended.printed
    assert said[0].startswith(f'{name}.py: ') and str(disk) in said[0]
    for word in ('Traceback', 'Logging error', 'libpng', 'Exception ignored'):
        assert word not in ended.printed, ended.printed
    assert ended.status == 2
    assert not ended.damaged
    left = set(ended.files) - set(ended.earlier) - set(whole.files)
    assert not [path for path in left if 'tmp' in path or '.partial' in path], left


SHARES = (0.0, 0.15, 0.4, 0.7, 0.95)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_a_full_disk_ends_a_tool_with_one_sentence(
    case, arguments, tool, repository, disk, monkeypatch
):
    monkeypatch.syspath_prepend(str(repository / 'tools'))
    monkeypatch.setattr(sys, 'argv', ['tool'])
    name = case.split()[0]
    run = functools.partial(tool(name).main, arguments[case])
    whole = call(run, disk)
    assert whole.status == 0 and not whole.damaged, whole.printed
    for share in SHARES:
        ended = call(run, disk, room=int(share * whole.used))
        print(share, ended.printed.splitlines()[-1:])
        check(ended, name, disk, whole)
