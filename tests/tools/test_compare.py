import json
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip('mmseg')

from mita_seg.comparison import measure
from mita_seg.comparison.runs import make_runs
from mita_seg.utils.files import exclusive

FIELDS = {
    'config',
    'config_file',
    'options',
    'seed',
    'mIoU',
    'aAcc',
    'mAcc',
    'params',
    'flops_model',
    'flops_decoder',
    'iter_ms',
    'latency_ms',
    'peak_mem_mb',
    'checkpoint',
}
TIMED = {'params', 'flops_model', 'flops_decoder', 'iter_ms', 'latency_ms'}


def command(repository, configs, work_dir, *more):
    return [sys.executable, str(repository / 'tools/compare.py'), *configs] + [
        '--work-dir',
        str(work_dir),
        *more,
    ]


def wait_for(condition, process, seconds=1800):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, 'ended too early'
        assert time.monotonic() < end, 'took too long'
        time.sleep(0.05)


@pytest.mark.long
@pytest.mark.slow
def test_killed_comparison_goes_on(tool, repository, tiny, shapes_configs, tmp_path, capsys):
    """Two configs: killed once a checkpoint is there, run again, evaluated by --test-only."""
    work_dir = tmp_path / 'work'
    # Long enough to be killed on the way.
    settings = [
        '--cfg-options',
        *tiny,
        'train_cfg.max_iters=25',
        'default_hooks.checkpoint.interval=5',
    ]
    arguments = command(repository, shapes_configs, work_dir, '--jobs', '2', *settings)
    first = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: list(work_dir.glob('*/seed0/last_checkpoint')), first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not (work_dir / 'results.json').exists()

    compare = tool('compare').main
    assert compare(arguments[2:]) == 0
    said = capsys.readouterr().out
    logs = [path.read_text() for path in work_dir.glob('*/seed0/log.txt')]
    assert any('resumed epoch: 0, iter:' in log for log in logs)

    results = json.loads((work_dir / 'results.json').read_text())
    assert set(results) == {'runs', 'environment'}
    assert len(results['runs']) == 2
    for run in results['runs']:
        assert set(run) == FIELDS
        assert 0 <= run['mIoU'] <= 100
        assert isinstance(run['flops_model'], int) and run['flops_model'] > run['flops_decoder'] > 0
        assert run['iter_ms'] > run['latency_ms'] > 0
        assert run['peak_mem_mb'] > 0
        assert (work_dir / run['checkpoint']).is_file()
    full, mita = results['runs']
    assert full['params'] == mita['params']
    assert full['flops_decoder'] != mita['flops_decoder']
    assert {'device', 'torch', 'python', 'date', 'threads', 'command', 'peak_mem_mb'} <= set(
        results['environment']
    )
    table = (work_dir / 'results.md').read_text()
    assert all(run['config'] in table for run in results['runs'])
    assert said.count('| mita-encdec |') == 2
    assert said.splitlines()[-1].endswith('(README, "Comparing").')
    for picture in ('comparison.png', 'results.png'):
        assert (work_dir / picture).stat().st_size > 10_000

    checkpoint, tested = work_dir / full['checkpoint'], tmp_path / 'tested'
    more = ['--test-only', str(checkpoint), '--no-timing', *settings]
    assert compare([shapes_configs[0], '--work-dir', str(tested), *more]) == 0
    (again,) = json.loads((tested / 'results.json').read_text())['runs']
    assert again['mIoU'] == full['mIoU']
    assert again['iter_ms'] is None
    assert (tested / again['checkpoint']).samefile(checkpoint)


@pytest.mark.slow
def test_finished_runs_are_skipped_and_failures_reported(
    tool, repository, tiny, shapes_configs, tmp_path, capsys, monkeypatch
):
    """A config that fails leaves the others alone; pictures are drawn again from the files."""
    broken = tmp_path / 'broken.py'
    broken.write_text(
        f'_base_ = {shapes_configs[0]!r}\nmodel = dict(decode_head=dict(in_channels=7))\n'
    )
    configs = [shapes_configs[0], str(broken)]
    work_dir = tmp_path / 'work'
    compare = tool('compare').main
    arguments = [*configs, '--work-dir', str(work_dir), '--cfg-options', *tiny]

    assert compare(['--no-timing', *arguments]) == 1
    printed = capsys.readouterr().out
    assert '1 runs wait for their timing' in printed and '| - ' in printed
    (untimed,) = json.loads((work_dir / 'results.json').read_text())['runs']
    assert set(untimed) == FIELDS
    assert {field for field, value in untimed.items() if value is None} == TIMED
    assert 'are not measured yet' in (work_dir / 'results.md').read_text()
    for picture in ('comparison.png', 'results.png'):
        assert (work_dir / picture).stat().st_size > 10_000
    checkpoint = max(work_dir.glob('*/seed0/iter_*.pth'))
    trained = checkpoint.stat().st_mtime_ns
    for finished in (False, True):
        assert compare(arguments) == 1
        captured = capsys.readouterr()
        assert 'broken seed 0 failed' in captured.err and 'Error' in captured.err
        assert ('1 of 2 runs are finished already' in captured.out) == finished
        (timed,) = json.loads((work_dir / 'results.json').read_text())['runs']
        assert {**timed, **dict.fromkeys(TIMED)} == untimed
        assert all(timed[field] > 0 for field in TIMED)
        assert 'are not measured yet' not in (work_dir / 'results.md').read_text()
        (work_dir / 'comparison.png').unlink()
    assert checkpoint.stat().st_mtime_ns == trained, 'trained again'

    with pytest.raises(SystemExit) as end:
        compare([*arguments, 'train_cfg.max_iters=5'])
    assert end.value.code == 2
    assert 'other settings' in capsys.readouterr().err


@pytest.mark.parametrize(
    'change, words',
    [
        ({'seeds': [1, 1]}, 'seed given twice: 1'),
        ({'checkpoints': ['a.pth']}, '2 configs, 1 checkpoints'),
        ({'checkpoints': ['a.pth', 'b.pth'], 'seeds': [0, 1]}, 'one seed'),
    ],
)
def test_contradictions_are_refused(shapes_configs, tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        make_runs(shapes_configs, tmp_path, **change)
    with pytest.raises(ValueError, match='config given twice'):
        make_runs([shapes_configs[0]] * 2, tmp_path)


def test_different_data_are_refused(shapes_root, shapes_configs, tmp_path):
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    options = {f'{loader}.dataset.data_root': str(shapes_root) for loader in loaders}
    other = tmp_path / 'other.py'
    other.write_text(
        f'_base_ = {shapes_configs[0]!r}\n'
        "test_dataloader = dict(dataset=dict(data_prefix=dict(img_path='images/training', "
        "seg_map_path='annotations/training')))\n"
    )
    with pytest.raises(ValueError, match='different data'):
        make_runs([shapes_configs[0], str(other)], tmp_path / 'work', cfg_options=options)


def test_run_that_cannot_be_measured_leaves_the_others(tool, tiny, shapes_configs, tmp_path):
    cfg_options = tool('compare').parse_args(['x', '--work-dir', 'x', '--cfg-options', *tiny])
    first, second = make_runs(shapes_configs, tmp_path, cfg_options=cfg_options.cfg_options)
    for run in (first, second):
        (run.folder / 'evaluation.json').write_text('{"mIoU": 1.5}')
    first.config.write_text(first.config.read_text().replace("'MiTAVision", "'NoVision"))
    with pytest.raises(SystemExit, match='NoVisionTransformer'):
        measure.main(['--no-training', str(first.folder), str(second.folder)])
    assert not (first.folder / 'result.json').exists()
    assert json.loads((second.folder / 'result.json').read_text())['mIoU'] == 1.5


def test_one_comparison_a_folder(tmp_path):
    with (
        exclusive(tmp_path),
        pytest.raises(ValueError, match='another process'),
        exclusive(tmp_path),
    ):
        pass
    with exclusive(tmp_path):
        pass
