"""tools/dist_train.sh, dist_test.sh, slurm_train.sh and slurm_test.sh.

Without GPUs the processes of two machines meet on this one. The two commands of SLURM that are
used, srun and scontrol, are imitated.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mita_seg.checkpoint import load_checkpoint_safely
from support.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
SHAPES = next((ROOT / 'configs').glob('mita_segmenter_shapes/*_mita-encdec_*.py'))
NO_GPU = {'CUDA_VISIBLE_DEVICES': '-1'}
CONFIG = 'configs/mita_segmenter/mita-segmenter_vit-t_mita-attnonly_8xb1-160k_ade20k-512x512.py'


def start(folder, script, *args, **variables):
    return subprocess.Popen(
        [ROOT / 'tools' / script, *args],
        cwd=folder,
        env={**os.environ, 'PYTHON': sys.executable, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    try:
        printed, _ = process.communicate(timeout=1800)
    finally:
        process.kill()
    assert process.returncode == 0, printed
    return printed


def run(folder, script, *args, **variables):
    return finish(start(folder, script, *args, **variables))


def echo(folder):
    """A program that prints its arguments, one a line."""
    program = folder / 'echo'
    program.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    return program


def one_step(shapes_root, *more):
    """Options that make the demonstration train one iteration of two images, on the CPU."""
    options = ['--work-dir', 'run', '--data-root', shapes_root, '--cfg-options', *more]
    options += ['crop_size=64,64', 'model.data_preprocessor.size=64,64']
    options += ['model.backbone.img_size=64,64', 'model.backbone.num_layers=1']
    options += ['train_cfg.max_iters=1', 'default_hooks.checkpoint.interval=1']
    return [*options, 'train_dataloader.batch_size=1']


def without_validation():
    return [f'{part}=None' for part in ('val_cfg', 'val_dataloader', 'val_evaluator')]


def trained_processes(folder):
    """The number of processes of a training, each of which keeps its random state."""
    checkpoint = load_checkpoint_safely(folder / 'run/iter_1.pth')
    return len(checkpoint['random_state']['processes'])


@pytest.mark.parametrize(
    'script, args', [('train', ['a config.py']), ('test', ['a config.py', 'a checkpoint.pth'])]
)
def test_several_machines(script, args, tmp_path):
    machines = dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='node0', PORT='1234')
    options = ['--cfg-options', 'a.b="[1, 2]"']
    python = str(echo(tmp_path))
    called = run(tmp_path, f'dist_{script}.sh', *args, '4', *options, PYTHON=python, **machines)
    assert called.splitlines() == [
        '-m',
        'torch.distributed.run',
        '--nnodes=2',
        '--node_rank=1',
        '--nproc_per_node=4',
        '--master_addr=node0',
        '--master_port=1234',
        str(ROOT / f'tools/{script}.py'),
        *args,
        '--launcher',
        'pytorch',
        *options,
    ]


@pytest.mark.long
@pytest.mark.slow
def test_two_machines_train_without_a_gpu(shapes_root, tmp_path):
    pytest.importorskip('mmseg')
    # Validation is divided, too. Gradients are averaged as in the fast recipe.
    options = one_step(
        shapes_root, 'train_cfg.val_interval=1', 'model_wrapper_cfg.type=FlatDataParallel'
    )
    machines = dict(NNODES='2', MASTER_ADDR='127.0.0.1', PORT=free_port(), **NO_GPU)
    nodes = [
        start(tmp_path, 'dist_train.sh', SHAPES, '1', *options, NODE_RANK=str(rank), **machines)
        for rank in range(2)
    ]
    try:
        printed = ''.join(finish(node) for node in nodes)
    finally:
        for node in nodes:
            node.kill()
    assert trained_processes(tmp_path) == 2
    assert 'Iter(val) [2/2]' in printed  # of four images
    # One process speaks for both, and one of two machines writes.
    assert printed.count('mIoU: ') == 1


SRUN = """#!{python}
import os, subprocess, sys
options = [a for a in sys.argv[1:] if a.startswith('--') and '=' in a]
command = sys.argv[1 + len(options):]
values = dict(option.split('=') for option in options)
tasks, per_node = int(values['--ntasks']), int(values['--ntasks-per-node'])
started = []
for task in range(tasks):
    variables = dict(
        SLURM_PROCID=str(task), SLURM_LOCALID=str(task % per_node), SLURM_NTASKS=str(tasks),
        SLURM_NODELIST='node[0-1]', SLURM_JOB_ID='1')
    started.append(subprocess.Popen(command, env={{**os.environ, **variables}}))
sys.exit(max(process.wait() for process in started))
"""


@pytest.fixture
def slurm(tmp_path):
    """The PATH with SLURM's commands, imitated; its machines are this one."""
    folder = tmp_path / 'slurm'
    folder.mkdir()
    commands = {
        'srun': SRUN.format(python=sys.executable),
        'scontrol': '#!/bin/sh\n[ "$*" = "show hostname node[0-1]" ] && echo localhost\n',
    }
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return os.pathsep.join((str(folder), os.environ['PATH']))


@pytest.mark.long
@pytest.mark.slow
def test_slurm_trains_without_a_gpu(slurm, shapes_root, tmp_path):
    pytest.importorskip('mmseg')
    # What a config says of the wrapper is kept, without a GPU.
    options = one_step(
        shapes_root, *without_validation(), 'model_wrapper_cfg.find_unused_parameters=True'
    )
    variables = dict(GPUS='2', GPUS_PER_NODE='1', PORT=free_port(), PATH=slurm, **NO_GPU)
    run(tmp_path, 'slurm_train.sh', 'a_partition', 'a_job', SHAPES, *options, **variables)
    assert trained_processes(tmp_path) == 2


@pytest.mark.parametrize(
    'script, args', [('train', ['a config.py']), ('test', ['a config.py', 'a checkpoint.pth'])]
)
@pytest.mark.parametrize(
    'variables, gpus, per_node, cores, more',
    [
        ({}, 8, 8, 5, []),
        ({'GPUS': '4'}, 4, 4, 5, []),
        (
            {'GPUS': '16', 'GPUS_PER_NODE': '4', 'CPUS_PER_TASK': '9', 'SRUN_ARGS': '-t 1 -q a'},
            *(16, 4, 9, ['-t', '1', '-q', 'a']),
        ),
    ],
)
def test_what_is_asked_of_slurm(script, args, variables, gpus, per_node, cores, more, tmp_path):
    echo(tmp_path).rename(tmp_path / 'srun')
    path = os.pathsep.join((str(tmp_path), os.environ['PATH']))
    options = ['--cfg-options', 'a.b="[1, 2]"']
    command = ('slurm_' + script + '.sh', 'a partition', 'a job', *args, *options)
    called = run(tmp_path, *command, PATH=path, PYTHON='a python', **variables)
    assert called.splitlines() == [
        '--partition=a partition',
        '--job-name=a job',
        f'--gres=gpu:{per_node}',
        f'--ntasks={gpus}',
        f'--ntasks-per-node={per_node}',
        f'--cpus-per-task={cores}',
        '--kill-on-bad-exit=1',
        *more,
        'a python',
        '-u',
        str(ROOT / f'tools/{script}.py'),
        *args,
        '--launcher',
        'slurm',
        *options,
    ]


@pytest.mark.parametrize('number, launcher, found', [('1', 'slurm', '1'), ('1', 'none', '0')])
def test_one_process_of_a_machine_is_the_first(number, launcher, found, monkeypatch):
    """It alone fetches pretrained weights; MMEngine tells the others later."""
    pytest.importorskip('mmengine')
    from mita_seg.utils.cli import parse_runner_args

    monkeypatch.setenv('LOCAL_RANK', 'restored')
    monkeypatch.delenv('LOCAL_RANK')
    monkeypatch.setenv('SLURM_LOCALID', number)
    parse_runner_args(argparse.ArgumentParser(), ['--launcher', launcher])
    assert os.environ['LOCAL_RANK'] == found


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_trains_and_tests_on_all_gpus(shapes_root, tmp_path):
    variables = dict(PORT=free_port())
    gpus = str(torch.cuda.device_count())
    options = ['--work-dir', 'run', '--cfg-options', 'model.backbone.init_cfg=None']
    options += ['train_cfg.max_iters=1', 'train_cfg.val_interval=2']
    options += ['default_hooks.checkpoint.interval=1']
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        options += [f'{loader}.dataset.data_root={shapes_root}']

    run(tmp_path, 'dist_train.sh', ROOT / CONFIG, gpus, *options, **variables)
    assert (tmp_path / 'run/iter_1.pth').exists()
    command = ('dist_test.sh', ROOT / CONFIG, 'run/iter_1.pth', gpus)
    assert 'mIoU' in run(tmp_path, *command, *options, **variables)
