"""A run that was interrupted ends with the same bits as one that was not."""

import random
import shutil

import pytest

pytest.importorskip('mmseg')

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel

from mita_seg.checkpoint import load_checkpoint_safely
from mita_seg.engine import ResumableRunner


class Model(BaseModel):
    """A regression with dropout."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, inputs, mode):
        out = self.layer(self.dropout(inputs.float()))
        return {'loss': out.square().mean()} if mode == 'loss' else [out]


class Augmented(torch.utils.data.Dataset):
    """Samples that draw from every generator."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        drawn = [random.random(), np.random.rand(), torch.rand(()).item()]
        return {'inputs': torch.tensor([index / 10, *drawn])}


class Draws(BaseMetric):
    """A metric whose computation draws from every generator."""

    def process(self, data_batch, data_samples):
        self.results.append(random.random() + np.random.rand() + torch.rand(()).item())

    def compute_metrics(self, results):
        return {'acc': sum(results)}


def loader(sampler, shuffle=True, **options):
    return {
        'dataset': Augmented(),
        'sampler': {'type': sampler, 'shuffle': shuffle},
        'batch_size': 3,
        'collate_fn': {'type': 'default_collate'},
        **options,
    }


def make_runner(folder, train_cfg, interval, resume=None, sampler='InfiniteSampler', **options):
    torch.manual_seed(0)  # the weights of the model
    by_epoch = train_cfg['by_epoch']
    checkpoint = {'type': 'CheckpointHook', 'interval': interval, 'by_epoch': False}
    checkpoint = {**checkpoint, 'save_best': 'acc'} if not by_epoch else checkpoint
    return ResumableRunner(
        model=Model(),
        work_dir=str(folder),
        train_dataloader=loader(sampler, **options),
        train_cfg=train_cfg,
        val_dataloader=loader('DefaultSampler', shuffle=False, num_workers=0),
        val_cfg={},
        val_evaluator=[{'type': Draws}],
        optim_wrapper={'optimizer': {'type': 'Adam', 'lr': 0.1}},
        default_hooks={'logger': None, 'checkpoint': checkpoint},
        load_from=resume,
        resume=resume is not None,
        randomness={'seed': 5},
        experiment_name=f'{folder.parent.name}_{folder.name}',
        log_level='ERROR',
        default_scope='mmseg',
    )


def weights(path):
    checkpoint = load_checkpoint_safely(path)
    return {**checkpoint['state_dict'], **{'moment': checkpoint['optimizer']['state'][0]['exp_avg']}}


ITERATIONS = {'by_epoch': False, 'max_iters': 9, 'val_interval': 3}
EPOCHS = {'by_epoch': True, 'max_epochs': 3, 'val_interval': 1}
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
    make_runner(whole, train_cfg, 3, sampler=sampler, **options).train()
    expected = weights(whole / f'iter_{last}.pth')
    for step in (3, 6):  # of 4 batches an epoch, so within one
        resumed = tmp_path / f'from{step}'
        # What another program does before must not matter.
        torch.manual_seed(step), random.seed(step), np.random.seed(step)
        start = str(whole / f'iter_{step}.pth')
        make_runner(resumed, train_cfg, 3, start, sampler, **options).train()
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
