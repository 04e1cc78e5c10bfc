"""Two GPUs by NCCL, with the compiled segmentor. Not run where there are fewer.

python -m pytest tests/distributed/test_two_gpus.py
"""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip('mmseg')

from mita_seg.checkpoint import load_checkpoint_safely
from support.ports import free_port
from support.process_groups import run_processes
from support.process_runs import GPU_SETTINGS

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason='fewer than two GPUs')


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """{setting: (losses, weights)} of one process, and of each of two."""
    loaded = []
    for count in (1, 2):
        folder = tmp_path_factory.mktemp(f'{count}_gpus')
        error = run_processes(count, folder, '--gpus')
        assert not error, error
        loaded += [torch.load(folder / f'{rank}.pth') for rank in range(count)]
    return loaded


@pytest.mark.parametrize('name', GPU_SETTINGS)
def test_losses_and_weights_are_those_of_one_gpu(name, results):
    (losses, weights), (first_losses, first), (second_losses, second) = (
        result[name] for result in results
    )
    assert (first_losses != second_losses).all()
    means = (first_losses + second_losses) / 2
    torch.testing.assert_close(means, losses, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(first, weights, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(second, first, rtol=0, atol=0)


@pytest.mark.parametrize('attention', ['full', 'mita-encdec'])
def test_a_resumed_training_ends_as_an_uninterrupted_one(
    attention, repository, shapes_root, tmp_path
):
    (config,) = (repository / 'configs/mita_segmenter_shapes').glob(f'*_{attention}_*.py')
    options = ['--data-root', shapes_root, '--cfg-options', 'model.type=CompiledEncoderDecoder']
    options += ['crop_size=64,64', 'model.data_preprocessor.size=64,64']
    options += ['model.backbone.img_size=64,64', 'model.backbone.num_layers=1']
    options += ['model.decode_head.drop_path_rate=0.0', 'randomness.seed=0']
    options += ['train_dataloader.batch_size=2', 'train_cfg.max_iters=8']
    options += ['default_hooks.checkpoint.interval=4']
    for run, *more in (['whole'], ['resumed', f'load_from={tmp_path}/whole/iter_4.pth']):
        command = [repository / 'tools/dist_train.sh', config, '2', '--work-dir', tmp_path / run]
        variables = {**os.environ, 'PYTHON': sys.executable, 'PORT': free_port()}
        done = subprocess.run(
            [*command, *['--resume'] * bool(more), *options, *more],
            env=variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    begun, whole, resumed = (
        load_checkpoint_safely(tmp_path / path)['state_dict']
        for path in ('whole/iter_4.pth', 'whole/iter_8.pth', 'resumed/iter_8.pth')
    )
    assert any(not torch.equal(whole[name], begun[name]) for name in whole)
    torch.testing.assert_close(resumed, whole, rtol=1e-3, atol=1e-5)


def test_sharded_training_evaluates(repository, shapes_root, tmp_path):
    """By MMEngine's FSDPStrategy, as the documentation says."""
    (base,) = (repository / 'configs/mita_segmenter_shapes').glob('*_mita-encdec_*.py')
    config = tmp_path / 'config.py'
    config.write_text(
        f'_base_ = {str(base)!r}\n'
        "runner_type = 'FlexibleRunner'\n"
        "strategy = dict(type='FSDPStrategy', state_dict_cfg='full')\n"
        'train_cfg = dict(max_iters=2, val_interval=2)\n'
        'default_hooks = dict(checkpoint=dict(interval=2))\n'
    )
    variables = {**os.environ, 'PYTHON': sys.executable, 'PORT': free_port()}
    common = ['--data-root', shapes_root, '--work-dir', tmp_path / 'run']
    train = [repository / 'tools/dist_train.sh', config, '2', *common]
    test = [sys.executable, repository / 'tools/test.py', config, tmp_path / 'run/iter_2.pth']
    test += [*common, '--cfg-options', 'runner_type=Runner']
    for command in (train, test):
        done = subprocess.run(command, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert 'mIoU' in done.stdout
