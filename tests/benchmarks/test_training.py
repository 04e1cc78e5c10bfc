import math

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.runner import IterBasedTrainLoop

from benchmarks import training
from benchmarks.report import write_report
from benchmarks.training import benchmark_training, prepare_training
from mita_seg.utils.cli import build_runner

CPU = torch.device('cpu')
FULL = 'configs/mita_segmenter_shapes/mita-segmenter_vit-micro_full_1xb4-500_shapes-128x128.py'


@pytest.fixture
def prepare(repository, shapes_root, tmp_path):
    options = {
        'crop_size': (64, 64),
        'model.data_preprocessor.size': (64, 64),
        'model.backbone.img_size': (64, 64),
        'model.backbone.num_layers': 1,
        'train_dataloader.batch_size': 2,
        'train_dataloader.dataset.data_root': str(shapes_root),
        'default_hooks.checkpoint.interval': 1,
        'log_level': 'WARNING',
    }

    def call(iters=6, **more):
        return prepare_training(str(repository / FULL), {**options, **more}, tmp_path, iters)

    return call


@pytest.mark.slow
def test_the_second_half_of_a_real_training_is_timed(prepare, monkeypatch, tmp_path):
    """A clock that advances by a second an iteration, and by ten in the first half."""
    now = {'seconds': 0.0}
    monkeypatch.setattr(training.time, 'perf_counter', lambda: now['seconds'])
    run_iter = IterBasedTrainLoop.run_iter

    def counted(loop, data):
        now['seconds'] += 10 if loop._iter < 3 else 1
        run_iter(loop, data)

    monkeypatch.setattr(IterBasedTrainLoop, 'run_iter', counted)
    (row,) = benchmark_training(prepare(), CPU)
    assert row['status'] == 'ok', row['reason']
    assert row['iteration_ms'] == 1000
    assert (row['batch'], row['iterations']) == (2, 6)
    assert row['config'].startswith('mita-segmenter_vit-micro_full')
    assert 0 < row['data_wait_ms'] < 1000 and 0 < row['last_loss'] < 100
    assert row['peak_bytes'] is None
    assert list(tmp_path.rglob('scalars.json'))  # logged as usual
    assert not list(tmp_path.rglob('*.pth'))


@pytest.mark.slow
def test_trainings_of_one_process_share_nothing(prepare, monkeypatch):
    runners = []

    def build(cfg):
        runners.append(build_runner(cfg))
        return runners[-1]

    monkeypatch.setattr(training, 'build_runner', build)
    for iters in (2, 4):
        (row,) = benchmark_training(prepare(iters), CPU)
        assert row['status'] == 'ok', row['reason']
    waits = [runner.message_hub.get_scalar('train/data_time').data[0] for runner in runners]
    assert [len(each) for each in waits] == [2, 4]
    assert runners[0].visualizer is not runners[1].visualizer


@pytest.mark.slow
@pytest.mark.parametrize(
    ('options', 'status', 'words'),
    [
        ({'model.decode_head.loss_decode.loss_weight': math.nan}, 'wrong', 'loss is nan'),
        ({'model.decode_head.in_channels': 7}, 'failed', ''),
    ],
)
def test_a_training_that_goes_wrong_has_no_time(prepare, options, status, words, tmp_path):
    (row,) = benchmark_training(prepare(2, **options), CPU)
    assert row['status'] == status and words in row['reason']
    assert row['iteration_ms'] is None
    report = write_report(tmp_path, {'environment': {}, 'training': [row]})
    assert f'- {row["config"]}: {status}: {row["reason"]} (2 iterations)' in report


def test_epochs_are_refused(prepare):
    with pytest.raises(ValueError, match='train_cfg must count iterations.*max_epochs'):
        prepare(train_cfg={'_delete_': True, 'by_epoch': True, 'max_epochs': 3})


def test_missing_data_are_refused(prepare):
    with pytest.raises(FileNotFoundError, match="'absent' does not exist"):
        prepare(**{'train_dataloader.dataset.data_root': 'absent'})
