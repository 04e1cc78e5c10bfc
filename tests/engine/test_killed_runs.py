"""Killed at any moment of a save, a run has lost nothing but the iterations since the last one."""

import multiprocessing
import os
import random
import signal
import time

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.fileio import LocalBackend

from mita_seg.checkpoint import find_newest, load_checkpoint_safely
from support.engine_runs import ITERATIONS, Draws, make_runner, weights

LAST, SECOND = 9, 6


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_half_written(name):
    """When the second half of a file would be written."""

    def patch(monkeypatch):
        put = LocalBackend.put

        def put_half(self, data, path):
            if os.path.basename(path).startswith(f'.{name}'):
                put(self, data[: len(data) // 2], path)
                die()
            put(self, data, path)

        monkeypatch.setattr(LocalBackend, 'put', put_half)

    return patch


def die_at_replace(name, before):
    """Just before or just after a file takes its place at the second save."""

    def patch(monkeypatch):
        replace, saves = os.replace, []

        def replace_or_die(source, target):
            hit = os.path.basename(target) == name.format(SECOND)
            saves.append(hit)
            fatal = hit and (name != 'last_checkpoint' or sum(saves) == 2)
            if fatal and before:
                die()
            replace(source, target)
            if fatal:
                die()

        monkeypatch.setattr(os, 'replace', replace_or_die)

    return patch


def die_before_removal(monkeypatch):
    monkeypatch.setattr(LocalBackend, 'remove', lambda *_: die())


POINTS = {
    'half written': die_half_written(f'iter_{SECOND}.pth'),
    'written, not in place': die_at_replace('iter_{}.pth', before=True),
    'in place, not named': die_at_replace('iter_{}.pth', before=False),
    'name written, not in place': die_at_replace('last_checkpoint', before=True),
    'named': die_at_replace('last_checkpoint', before=False),
    'before the old one goes': die_before_removal,
}
OPTIONS = {'num_workers': 0, 'keep': 1}


def train_until_killed(folder, patch, **more):
    def child():
        with pytest.MonkeyPatch.context() as monkeypatch:
            patch(monkeypatch)
            make_runner(folder, ITERATIONS, 3, **OPTIONS, **more).train()

    process = multiprocessing.get_context('fork').Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture(scope='module')
def expected(tmp_path_factory):
    """Weights of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp('killed') / 'whole'
    make_runner(folder, ITERATIONS, 3, **OPTIONS).train()
    assert [path.name for path in folder.glob('iter_*')] == [f'iter_{LAST}.pth']
    return weights(folder / f'iter_{LAST}.pth')


@pytest.mark.parametrize('point', POINTS)
def test_killed_while_saving(point, expected, tmp_path):
    folder = tmp_path / 'run'
    train_until_killed(folder, POINTS[point])
    named = (folder / 'last_checkpoint').read_text()
    assert load_checkpoint_safely(named)['meta']['iter'] in (3, SECOND)

    path, checkpoint = find_newest(folder)
    in_place = point not in ('half written', 'written, not in place')
    assert checkpoint['meta']['iter'] == (SECOND if in_place else 3)
    make_runner(folder, ITERATIONS, 3, path, **OPTIONS).train()
    for name, value in weights(folder / f'iter_{LAST}.pth').items():
        assert torch.equal(value, expected[name]), name
    left = sorted(path.name for path in folder.iterdir() if not path.is_dir())
    assert [name for name in left if 'iter' in name or 'tmp' in name] == [f'iter_{LAST}.pth']


def test_best_weights_are_there_while_better_ones_are_written(tmp_path):
    folder = tmp_path / 'run'
    train_until_killed(folder, die_half_written(f'best_acc_iter_{SECOND}.pth'), best='acc')
    assert 'state_dict' in load_checkpoint_safely(folder / 'best_acc_iter_3.pth')
    Draws.evaluations += 9  # those of the other process
    start = str(folder / f'iter_{SECOND}.pth')
    make_runner(folder, ITERATIONS, 3, start, **OPTIONS, best='acc').train()
    assert [path.name for path in folder.glob('*best*')] == [f'best_acc_iter_{LAST}.pth']


MANY = {'by_epoch': False, 'max_iters': 60, 'val_interval': 20}
KILLS = 5  # of each of six settings


def train(folder, **options):
    """Go on from the newest checkpoint, in a process that is about to train."""
    reader, writer = multiprocessing.Pipe(duplex=False)

    def child():
        newest = find_newest(folder)
        runner = make_runner(folder, MANY, 1, newest and newest[0], num_workers=0, **options)
        writer.send('begun')
        runner.train()

    process = multiprocessing.get_context('fork').Process(target=child)
    process.start()
    reader.recv()
    return process


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    'options',
    [
        {'keep': keep, 'ema': ema, 'amp': amp}
        for keep, ema, amp in [
            (-1, False, False),
            (1, False, False),
            (2, True, False),
            (-1, True, False),
            (1, False, True),
            (2, True, True),
        ]
    ],
    ids=lambda options: '-'.join(f'{name}={value}' for name, value in options.items()),
)
def test_killed_at_random_moments(options, tmp_path):
    """60 iterations, a checkpoint after each: half of the time is spent on writing them."""
    start = time.perf_counter()
    whole = train(tmp_path / 'whole', **options)
    whole.join()
    assert whole.exitcode == 0
    seconds = time.perf_counter() - start
    expected = weights(tmp_path / 'whole/iter_60.pth')
    assert any(name.startswith('ema.') for name in expected) == options['ema']

    folder = tmp_path / 'run'
    killed = 0
    while killed < KILLS:
        process = train(folder, **options)
        time.sleep(random.random() * seconds / (KILLS + 1))  # never long enough to end
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        last = folder / 'last_checkpoint'
        if last.exists():
            load_checkpoint_safely(last.read_text())  # a whole one
    process = train(folder, **options)
    process.join()
    assert process.exitcode == 0
    got = weights(folder / 'iter_60.pth')
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert torch.equal(value, expected[name]), name
