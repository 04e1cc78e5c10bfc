"""A run that was interrupted ends with the same bits as one that was not."""

import random

import pytest

pytest.importorskip('mmseg')

import numpy as np
import torch
from engine_runs import EPOCHS, ITERATIONS, make_runner, weights

from mita_seg.checkpoint import load_checkpoint_safely

WORKERS = {'num_workers': 2, 'persistent_workers': True}


@pytest.mark.parametrize(
    'train_cfg, sampler, options',
    [
        (ITERATIONS, 'InfiniteSampler', {'num_workers': 0}),
        (ITERATIONS, 'InfiniteSampler', WORKERS),
        (ITERATIONS, 'DefaultSampler', {'num_workers': 0}),
        (ITERATIONS, 'DefaultSampler', {'num_workers': 2}),
        (EPOCHS, 'DefaultSampler', {'num_workers': 0}),
        (EPOCHS, 'DefaultSampler', WORKERS),
    ],
)
def test_resumed_run_ends_with_the_same_bits(tmp_path, train_cfg, sampler, options):
    last = 9 if train_cfg is ITERATIONS else 12
    whole = tmp_path / 'whole'
    best = 'acc' if train_cfg is ITERATIONS else None  # saves again in the midst of validation
    make_runner(whole, train_cfg, 3, sampler=sampler, best=best, **options).train()
    expected = weights(whole / f'iter_{last}.pth')
    for step in (3, 6):  # of 4 batches an epoch, so within one
        resumed = tmp_path / f'from{step}'
        # What another program does before must not matter.
        torch.manual_seed(step), random.seed(step), np.random.seed(step)
        start = str(whole / f'iter_{step}.pth')
        make_runner(resumed, train_cfg, 3, start, sampler, best=best, **options).train()
        found = weights(resumed / f'iter_{last}.pth')
        for name, value in expected.items():
            assert torch.equal(found[name], value), (step, name)


def test_batches_do_not_depend_on_the_number_of_workers(tmp_path):
    found = []
    for count in (0, 1, 2):
        folder = tmp_path / f'workers{count}'
        make_runner(folder, ITERATIONS, 9, num_workers=count).train()
        found.append(weights(folder / 'iter_9.pth'))
    assert torch.equal(found[0]['layer.weight'], found[1]['layer.weight'])
    assert torch.equal(found[0]['layer.weight'], found[2]['layer.weight'])


def test_checkpoint_without_random_state_is_resumed(tmp_path):
    make_runner(tmp_path / 'old', ITERATIONS, 3, num_workers=0).train()
    checkpoint = load_checkpoint_safely(tmp_path / 'old/iter_3.pth')
    del checkpoint['random_state']
    torch.save(checkpoint, tmp_path / 'old.pth')
    runner = make_runner(tmp_path / 'new', ITERATIONS, 3, str(tmp_path / 'old.pth'), num_workers=0)
    runner.train()
    assert runner.iter == 9
