"""On a full disk every tool ends with one sentence, and no file is half written."""

import errno
import functools
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('mmseg')

from mita_seg.comparison import measure, workers
from mita_seg.comparison.runs import Run
from mita_seg.inference.files import OverlayVideo
from mita_seg.utils.cli import ends_on_full_disk
from support.disk_errors import full
from support.small_disk import call, can_mount


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
        'make_shapes_dataset': [
            *(str(disk / 'shapes'), '--size', '64', '--num-train', '6', '--num-val', '2')
        ],
        'prepare_dataset': [str(shapes_root), '--out', str(disk / 'mine')],
        'complexity': [config, '--out', str(disk / 'out'), '--sizes', '64', '128'],
        'analyze_routing': [*model, *work_dir, '--images', '1', *data],
        'compare': [shapes_configs[1], *work_dir, '--no-timing', '--cfg-options', *tiny],
    }


# How much of what a tool writes there is room for.
SHARES = {
    'train': (0.0, 0.3, 0.8),
    'test': (0.7,),
    'test --show-dir': (0.15, 0.5, 0.9),
    'convert_checkpoint': (0.0, 0.9),
    'convert_checkpoint safetensors': (0.5,),
    'predict': (0.0, 0.1, 0.9),
    'predict video': (0.0, 0.5),
    'export': (0.5,),
    'make_shapes_dataset': (0.0, 0.4, 0.95),
    'prepare_dataset': (0.0, 0.4, 0.95),
    'complexity': (0.5,),
    'analyze_routing': (0.7,),
    'compare': (0.5,),
}


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


@pytest.fixture
def run(arguments, tool, repository, monkeypatch):
    """A call of the tool of a case, perhaps with more arguments."""
    monkeypatch.syspath_prepend(str(repository / 'tools'))

    def make(case, *more):
        return functools.partial(tool(case.split()[0]).main, [*arguments[case], *more])

    return make


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize('case', SHARES)
def test_a_full_disk_ends_a_tool_with_one_sentence(case, run, disk):
    whole = call(run(case), disk)
    assert whole.status == 0 and not whole.damaged, whole.printed
    for share in SHARES[case]:
        check(call(run(case), disk, room=int(share * whole.used)), case.split()[0], disk, whole)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    'case, more',
    [
        ('train', ['train_cfg.max_iters=8']),
        ('convert_checkpoint', []),
        ('make_shapes_dataset', ['--seed', '1']),
    ],
)
def test_a_full_disk_leaves_earlier_files_as_they_are(case, more, run, disk):
    whole = call(run(case, *more), disk, before=run(case))
    assert whole.status == 0 and whole.earlier
    ended = call(run(case, *more), disk, room=20_000, before=run(case))
    check(ended, case, disk, whole)
    for path, digest in ended.earlier.items():
        # The config of a run is written anew, whole.
        assert ended.files[path] == digest or path.endswith('.py'), path


def test_half_a_video_is_removed(disk):
    # More than 1 MiB, so that what is removed would leave room enough for a probe.
    frames = np.random.default_rng(0).integers(0, 256, (24, 512, 512, 3), np.uint8)

    def write():
        with OverlayVideo(disk / 'video.mp4', (512, 512), 10) as video:
            for frame in frames:
                video.write(frame)

    def write_or_say():
        with ends_on_full_disk('predict.py'):
            write()

    whole = call(write, disk)
    assert list(whole.files) == ['video.mp4'] and not whole.damaged
    assert whole.used > 2**21
    for share in (0.0, 0.5, 0.99):
        ended = call(write_or_say, disk, room=int(share * whole.used))
        assert ended.status == 2 and not ended.files
        said = f'predict.py: {str(disk / "video.mp4")!r} cannot be written: no space left'
        assert said in ended.printed


TOOLS = sorted(path.stem for path in (Path(__file__).parents[2] / 'tools').glob('*.py'))


@pytest.mark.parametrize('name', TOOLS)
def test_every_tool_ends_with_a_sentence(name, tool, repository, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(repository / 'tools'))
    monkeypatch.setenv('TRITON_INTERPRET', '0')  # tools/check_kernels.py takes it away

    def parse_args(argv):
        raise RuntimeError('of a library') from full()

    module = tool(name)
    monkeypatch.setattr(module, 'parse_args', parse_args)
    with pytest.raises(SystemExit) as end:
        module.main([])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f'{name}.py: a file cannot be written: no space left')


class Worker:
    """A process that has ended when it is looked at for the last of some times."""

    def __init__(self, status, looks=1):
        self.status, self.looks, self.killed = status, looks, False

    def poll(self):
        self.looks -= 1
        return None if self.looks > 0 else self.status

    def wait(self):
        return self.status

    def kill(self):
        self.killed = True


# What a worker ends with that could not write a file, and one that could not write its log.
@pytest.mark.parametrize('status', [workers.DISK_FULL, 120])
def test_a_full_disk_of_one_run_ends_the_comparison(status, monkeypatch, tmp_path):
    runs = [Run(tmp_path, 'a', 0), Run(tmp_path, 'a', 1)]
    for run in runs:
        run.folder.mkdir(parents=True)
    started = [Worker(status), Worker(0, looks=3)]
    left = list(started)
    monkeypatch.setattr(workers, 'start_attached', lambda *_: left.pop(0))
    with pytest.raises(OSError) as caught:
        workers.run_workers(runs, jobs=2)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(runs[0].folder)
    assert started[1].killed

    left.append(Worker(status))
    with pytest.raises(OSError) as caught:
        workers.measure_runs(runs, jobs=1, train=False)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path)


def test_measuring_ends_on_a_full_disk_alone(monkeypatch, tmp_path):
    errors = [ValueError('first'), full()]

    def fail(*_, **__):
        raise errors.pop(0)

    monkeypatch.setattr(measure, 'measure', fail)
    with pytest.raises(OSError, match='No space'):
        measure.main([str(tmp_path / 'a/seed0'), str(tmp_path / 'b/seed0')])
