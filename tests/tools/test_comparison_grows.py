"""A comparison takes more configs and seeds, tests one checkpoint under several, and fine-tunes."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mita_seg.checkpoint import load_checkpoint_safely
from mita_seg.comparison.runs import Run, find_evaluated, make_runs
from mita_seg.comparison.workers import run_workers

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


@pytest.fixture
def options(shapes_root):
    return {f'{loader}.dataset.data_root': str(shapes_root) for loader in LOADERS}


def finish(run):
    path = run.folder / 'checkpoint.pth'
    path.touch()
    checkpoint = str(path.relative_to(run.work_dir))
    for name in ('evaluation.json', 'result.json'):
        (run.folder / name).write_text(json.dumps({'checkpoint': checkpoint}))


def test_runs_of_earlier_commands_come_first(shapes_configs, options, tmp_path):
    full, mita = shapes_configs
    first = make_runs([mita], tmp_path, (10, 2), cfg_options=options)
    second = make_runs([full], tmp_path, (0, 1), cfg_options=options)
    for run in (*first, second[0]):
        finish(run)
    # Asking again leaves the order alone.
    make_runs([mita], tmp_path, (2,), cfg_options=options)
    found = [(folder.parent.name, folder.name) for folder in find_evaluated(second, tmp_path)]
    full, mita = Path(full).stem, Path(mita).stem
    assert found == [(mita, 'seed2'), (mita, 'seed10'), (full, 'seed0')]


def test_results_of_another_checkpoint_than_the_one_asked_for_are_left_out(
    shapes_configs, options, tmp_path
):
    (run,) = make_runs(shapes_configs[:1], tmp_path, cfg_options=options)
    finish(run)
    other = tmp_path / 'other.pth'
    other.touch()
    assert find_evaluated([run], tmp_path) == [run.folder]
    assert find_evaluated([Run(tmp_path, run.name, run.seed, other)], tmp_path) == []


def test_other_data_than_those_of_the_folder_are_refused(shapes_configs, options, tmp_path):
    full, mita = shapes_configs
    make_runs([full], tmp_path, cfg_options=options)
    prefix = {'img_path': 'images/training', 'seg_map_path': 'annotations/training'}
    other = {**options, 'test_dataloader.dataset.data_prefix': prefix}
    with pytest.raises(ValueError, match=rf'{Path(mita).stem} and {Path(full).stem} use different'):
        make_runs([mita], tmp_path, cfg_options=other)
    assert not (tmp_path / Path(mita).stem).exists()


def test_start_from_a_missing_checkpoint_is_refused(shapes_configs, options, tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.pth'):
        make_runs(shapes_configs, tmp_path, cfg_options={**options, 'load_from': 'nowhere.pth'})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.long
def test_weights_trained_by_one_command_are_tested_under_both_configs(
    tool, tiny, shapes_configs, tmp_path, capsys
):
    compare = tool('compare').main
    full, mita = shapes_configs
    settings = ['--cfg-options', *tiny]
    trained, swapped = tmp_path / 'trained', tmp_path / 'swapped'
    for config in (mita, full):
        assert compare([config, '--work-dir', str(trained), '--no-timing', *settings]) == 0
    results = json.loads((trained / 'results.json').read_text())
    assert [run['config'] for run in results['runs']] == [Path(mita).stem, Path(full).stem]
    first, second = results['environment']['commands']
    assert mita in first and full in second

    checkpoint = str(trained / results['runs'][1]['checkpoint'])
    arguments = [full, mita, '--work-dir', str(swapped), '--test-only', checkpoint, checkpoint]
    capsys.readouterr()
    assert compare([*arguments, '--jobs', '2', *settings]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if 'another attention' in line)
    assert line.startswith(f'compare.py: {checkpoint}: ')
    assert 'decode_head: FullAttention, now MiTAAttention' in line
    runs = json.loads((swapped / 'results.json').read_text())['runs']
    assert runs[0]['mIoU'] == results['runs'][1]['mIoU']
    assert runs[0]['flops_model'] != runs[1]['flops_model']
    assert all(run['latency_ms'] > 0 and run['iter_ms'] is None for run in runs)
    assert {str((swapped / run['checkpoint']).resolve()) for run in runs} == {checkpoint}


@pytest.mark.long
@pytest.mark.slow
def test_fine_tuning_loads_its_start_and_goes_on_without_it(tool, tiny, shapes_configs, tmp_path):
    """With a learning rate of 0 the weights stay those of the start, also once it is gone."""
    mita, work_dir, start = shapes_configs[1], tmp_path / 'work', tmp_path / 'start.pth'
    settings = ['--cfg-options', *tiny, f'load_from={start}', 'optim_wrapper.optimizer.lr=0.0']
    cfg_options = tool('compare').parse_args([mita, '--work-dir', 'x', *settings]).cfg_options
    cfg = Config.fromfile(mita)
    cfg.merge_from_dict(cfg_options)
    init_default_scope('mmseg')
    torch.manual_seed(1)  # the run's seed is 0
    weights = MODELS.build(cfg.model).state_dict()
    torch.save({'state_dict': weights}, start)
    (run,) = make_runs([mita], work_dir, cfg_options=cfg_options)

    def train():
        assert run_workers([run], jobs=1) == {}
        trained = load_checkpoint_safely(run.folder / 'iter_4.pth')['state_dict']
        assert all(torch.equal(trained[name], weights[name]) for name in weights)

    train()
    for left_by_the_end in ('iter_4.pth', 'evaluation.json'):
        (run.folder / left_by_the_end).unlink()
    start.unlink()
    train()
    assert 'resumed epoch: 0, iter: 2' in (run.folder / 'log.txt').read_text()
