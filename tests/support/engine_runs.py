"""Small training runs that draw random numbers wherever a training may."""

import random

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
    """A metric that draws from every generator, and is better every time."""

    evaluations = 0

    def process(self, data_batch, data_samples):
        self.results.append(random.random() + np.random.rand() + torch.rand(()).item())

    def compute_metrics(self, results):
        Draws.evaluations += 1
        return {'acc': Draws.evaluations}


def loader(sampler, shuffle=True, **options):
    return {
        'dataset': Augmented(),
        'sampler': {'type': sampler, 'shuffle': shuffle},
        'batch_size': 3,
        'collate_fn': {'type': 'default_collate'},
        **options,
    }


def make_runner(
    folder,
    train_cfg,
    interval,
    resume=None,
    sampler='InfiniteSampler',
    keep=-1,
    best=None,
    ema=False,
    amp=False,
    **options,
):
    """A runner that saves every `interval` iterations, and draws wherever a training may."""
    torch.manual_seed(0)  # the weights of the model
    checkpoint = {'type': 'CheckpointHook', 'interval': interval, 'by_epoch': False}
    checkpoint.update(max_keep_ckpts=keep, save_best=best)
    return ResumableRunner(
        model=Model(),
        work_dir=str(folder),
        train_dataloader=loader(sampler, **options),
        train_cfg=train_cfg,
        val_dataloader=loader('DefaultSampler', shuffle=False, num_workers=0),
        val_cfg={},
        val_evaluator=[{'type': Draws}],
        optim_wrapper={
            'type': 'BFloat16OptimWrapper' if amp else 'OptimWrapper',
            'optimizer': {'type': 'Adam', 'lr': 0.1},
        },
        default_hooks={'logger': None, 'checkpoint': checkpoint},
        custom_hooks=[{'type': 'EMAHook'}] if ema else [],
        load_from=resume,
        resume=resume is not None,
        randomness={'seed': 5},
        experiment_name=f'{folder.parent.name}_{folder.name}',
        log_level='ERROR',
        default_scope='mmseg',
    )


def weights(path):
    checkpoint = load_checkpoint_safely(path)
    return {
        **checkpoint['state_dict'],
        **{f'ema.{name}': each for name, each in checkpoint.get('ema_state_dict', {}).items()},
        **{'moment': checkpoint['optimizer']['state'][0]['exp_avg']},
    }


ITERATIONS = {'by_epoch': False, 'max_iters': 9, 'val_interval': 3}
EPOCHS = {'by_epoch': True, 'max_epochs': 3, 'val_interval': 1}
