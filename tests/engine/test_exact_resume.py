"""A run that was interrupted ends with the same bits as one that was not."""

import multiprocessing
import random

import pytest

pytest.importorskip('mmseg')

import numpy as np
import torch
import torch.distributed as dist
from mmengine.runner import IterBasedTrainLoop

from mita_seg.checkpoint import load_checkpoint_safely
from mita_seg.engine.random_state import seed_generators
from support.engine_runs import EPOCHS, ITERATIONS, make_runner, weights

pytestmark = pytest.mark.slow

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
        start = str(whole / f'iter_{step}.pth')
        runner = make_runner(resumed, train_cfg, 3, start, sampler, best=best, **options)
        seed_generators(step)  # what was drawn before must not matter
        runner.train()
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


class EagerLoop(IterBasedTrainLoop):
    """Takes an iterator when it is built, as that of MMEngine 0.10.7 does."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.dataloader_iterator = iter(self.dataloader)


def test_batches_do_not_depend_on_what_a_loop_takes_when_it_is_built(tmp_path):
    found = []
    for loop in (IterBasedTrainLoop, EagerLoop):
        folder = tmp_path / loop.__name__
        train_cfg = {'type': loop, 'max_iters': 9, 'val_interval': 3}
        make_runner(folder, train_cfg, 9, num_workers=1).train()
        found.append(weights(folder / 'iter_9.pth'))
    assert torch.equal(found[0]['layer.weight'], found[1]['layer.weight'])


def test_checkpoint_without_random_state_is_resumed(tmp_path):
    make_runner(tmp_path / 'old', ITERATIONS, 3, num_workers=0).train()
    checkpoint = load_checkpoint_safely(tmp_path / 'old/iter_3.pth')
    del checkpoint['random_state']
    torch.save(checkpoint, tmp_path / 'old.pth')
    runner = make_runner(tmp_path / 'new', ITERATIONS, 3, str(tmp_path / 'old.pth'), num_workers=0)
    runner.train()
    assert runner.iter == 9


def _train_as(rank, folder, resume, drawn):
    """One of two processes, each of which draws numbers of its own."""
    dist.init_process_group('gloo', f'file://{folder.parent}/meet{resume}', rank=rank, world_size=2)
    options = {'num_workers': 0, 'best': None}
    start = str(folder / 'iter_3.pth') if resume else None
    runner = make_runner(folder, ITERATIONS, 3, start, **options)
    seed_generators(rank, resume)
    runner.train()
    drawn.put((rank, random.random(), np.random.rand(), torch.rand(()).item()))
    dist.barrier()


def test_every_process_has_its_own_state_again(tmp_path):
    found = []
    for resume in (False, True):
        context = multiprocessing.get_context('fork')
        drawn = context.SimpleQueue()
        processes = [
            context.Process(
                target=_train_as, args=(rank, tmp_path / 'run', resume, drawn), daemon=True
            )
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(100)
            assert process.exitcode == 0
        found.append(sorted(drawn.get() for _ in processes))
    assert found[0] == found[1]
    assert found[0][0][1:] != found[0][1][1:]
    saved = load_checkpoint_safely(tmp_path / 'run/iter_3.pth')['random_state']
    assert len(saved['processes']) == 2
