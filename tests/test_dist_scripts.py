"""tools/dist_train.sh and tools/dist_test.sh; MMEngine runs several processes on GPUs only."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
CONFIG = 'configs/mita_segmenter/mita-segmenter_vit-t_mita-attnonly_8xb1-160k_ade20k-512x512.py'


def run(folder, script, *args, **variables):
    command = [ROOT / 'tools' / script, *args]
    variables = {**os.environ, 'PYTHON': sys.executable, **variables}
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    'script, args', [('train', ['a config.py']), ('test', ['a config.py', 'a checkpoint.pth'])]
)
def test_several_machines(script, args, tmp_path):
    echo = tmp_path / 'python'
    echo.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)
    machines = dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='node0', PORT='1234')
    options = ['--cfg-options', 'a.b="[1, 2]"']
    called = run(tmp_path, f'dist_{script}.sh', *args, '4', *options, PYTHON=str(echo), **machines)
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_trains_and_tests_on_all_gpus(shapes_root, tmp_path):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        variables = dict(PORT=str(probe.getsockname()[1]))
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
