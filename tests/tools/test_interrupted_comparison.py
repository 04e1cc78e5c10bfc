"""A comparison that is interrupted at any moment goes on, and ends as one that is not."""

import json
import os
import random
import signal
import time

import pytest
import torch

pytest.importorskip('mmseg')

from mita_seg.checkpoint import load_checkpoint_safely
from support.forked_workers import start_compare

KILLS = int(os.environ.get('MITA_SEG_KILLS', '1'))  # of each signal
FIGURES = ('config', 'seed', 'mIoU', 'aAcc', 'mAcc', 'checkpoint')


@pytest.fixture
def start(repository, shapes_configs, tiny, tmp_path):
    """Start a comparison of two configs in a folder; what it prints goes to a file beside it."""

    def make(name):
        arguments = [*shapes_configs, '--work-dir', str(tmp_path / name), '--no-timing']
        arguments += ['--cfg-options', *tiny, 'train_cfg.max_iters=12']
        with open(tmp_path / f'{name}.txt', 'wb') as output:
            return start_compare(repository / 'tools/compare.py', arguments, output)

    return make


def interrupt(process, number):
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.kill()


def weights(folder):
    return {
        path.parent.parent.name: load_checkpoint_safely(path)['state_dict']
        for path in folder.glob('*/seed0/iter_12.pth')
    }


def rows(folder):
    results = json.loads((folder / 'results.json').read_text())['runs']
    return [{name: row[name] for name in FIGURES} for row in results]


@pytest.mark.long
@pytest.mark.slow
def test_interrupted_at_random_moments(start, tmp_path):
    begun = time.perf_counter()
    assert start('whole').wait() == 0, (tmp_path / 'whole.txt').read_text()
    seconds = time.perf_counter() - begun

    run, runs = 'run0', 1
    signals = KILLS * [signal.SIGKILL, signal.SIGINT]
    while signals:
        process = start(run)
        time.sleep(random.random() * 0.7 * seconds)
        interrupt(process, signals[-1])
        status = process.wait()
        if status == 0:  # it was quicker
            run, runs = f'run{runs}', runs + 1
            continue
        said = (tmp_path / f'{run}.txt').read_text()
        assert 'Traceback' not in said
        number = signals.pop()
        assert status == (130 if number == signal.SIGINT else -number), said
        if number == signal.SIGINT:
            assert said.splitlines()[-1].endswith('run the same command again to go on')
        for path in (tmp_path / run).glob('*/seed0/last_checkpoint'):
            load_checkpoint_safely(path.read_text())

    expected = weights(tmp_path / 'whole')
    whole = (tmp_path / 'whole/results.md').read_text()
    for folder in sorted(path for path in tmp_path.glob('run*') if path.is_dir()):
        assert start(folder.name).wait() == 0, (tmp_path / f'{folder.name}.txt').read_text()
        got = weights(folder)
        assert got.keys() == expected.keys() and len(got) == 2
        for name, each in got.items():
            assert all(torch.equal(value, expected[name][key]) for key, value in each.items())
        assert rows(folder) == rows(tmp_path / 'whole')
        assert (folder / 'results.md').read_text().count('\n|') == whole.count('\n|')
