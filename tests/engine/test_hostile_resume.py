"""A checkpoint that is resumed may be anybody's: it removes no file, and ends in a sentence."""

import pytest

pytest.importorskip('mmseg')

import torch

from mita_seg.checkpoint import load_checkpoint_safely
from mita_seg.checkpoint.matching import require_matching_checkpoint
from support.engine_runs import ITERATIONS, make_runner

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The content of a checkpoint at iteration 3 of 9."""
    folder = tmp_path_factory.mktemp('whole') / 'run'
    make_runner(folder, {**ITERATIONS, 'max_iters': 3}, 3, best='acc').train()
    return load_checkpoint_safely(folder / 'iter_3.pth')


def resumed(folder, checkpoint, **options):
    torch.save(checkpoint, folder / 'start.pth')
    runner = make_runner(folder / 'run', ITERATIONS, 3, str(folder / 'start.pth'), **options)
    require_matching_checkpoint(runner, 'train.py')
    return runner


def with_part(checkpoint, *path, value):
    """A copy of a checkpoint in which one entry has another value."""
    first, *rest = path
    inner = with_part(checkpoint[first], *rest, value=value) if rest else value
    return {**checkpoint, first: inner}


def test_files_that_a_checkpoint_names_are_not_removed(tmp_path, whole):
    folder, file = tmp_path / 'best_folder', tmp_path / 'best_file'
    folder.mkdir()
    file.touch()
    work_dir = tmp_path / 'run'
    work_dir.mkdir()
    own = work_dir / 'notes.txt'
    own.touch()
    names = [str(folder), str(file), str(own), f'{work_dir}/../best_file', f'{work_dir}/..']
    for name in names:
        info = ('message_hub', 'runtime_info')
        evil = with_part(whole, *info, 'best_ckpt', value=name)
        evil = with_part(evil, *info, 'best_score', value=-1.0)
        evil = with_part(evil, *info, 'keep_ckpt_ids', value=['/../../best_file', 1, 2])
        resumed(tmp_path, evil, best='acc', keep=1).train()
        assert folder.is_dir() and file.is_file() and own.is_file(), name
    # Its own are, as ever.
    assert [path.name for path in work_dir.glob('iter_*.pth')] == ['iter_9.pth']
    assert len(list(work_dir.glob('best_*.pth'))) == 1


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        (('optimizer',), 'text'),
        (('optimizer',), {}),
        (('optimizer', 'param_groups'), [{'params': [0], 'lr': 'x'}]),
        (('message_hub',), {'log_scalars': 3, 'runtime_info': 4, 'resumed_keys': 5}),
        (('random_state',), 3),
        (('random_state', 'processes'), [{'python': 1}]),
    ],
)
def test_a_state_that_fits_nothing_is_one_sentence(tmp_path, whole, capsys, path, value):
    runner = resumed(tmp_path, with_part(whole, *path, value=value))
    with pytest.raises(SystemExit) as end:
        runner.train()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith('train.py: checkpoint ') and said.count('\n') == 1
    words = 'its random_state is none' if path[0] == 'random_state' else 'does not fit'
    assert 'start.pth' in said and words in said
