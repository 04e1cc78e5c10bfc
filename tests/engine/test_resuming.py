"""What a run that is asked to resume starts from."""

import os
from pathlib import Path

import pytest

pytest.importorskip('mmengine')

import torch
from mmengine.config import Config

from mita_seg.checkpoint import find_resumable
from mita_seg.engine.resuming import require_one_start, settle_start

STATE = {'meta': {'iter': 4, 'epoch': 0, 'seed': 7}, 'message_hub': {}, 'state_dict': {}}


class Foreign:
    """A class that no checkpoint may hold."""


def save(path, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**STATE, **more}, path)
    return str(path)


def damage(path):
    os.truncate(path, os.path.getsize(path) // 2)


def settle(folder, resume=True, named=None, hook=None, **more):
    """The path that is resumed, if any; what is said; and the config."""
    hooks = {'checkpoint': {'type': 'CheckpointHook', 'by_epoch': False, **(hook or {})}}
    cfg = Config({'work_dir': str(folder), 'load_from': None, 'default_hooks': hooks, **more})
    said = []
    settle_start(cfg, resume, named, said.append)
    return (cfg.load_from if cfg.resume else None), said, cfg


def test_nothing_to_resume_is_a_fresh_start(tmp_path):
    source, said, _ = settle(tmp_path)
    assert source is None
    assert said == [f'no checkpoint to resume in {str(tmp_path)!r}, starting from the beginning']


def test_newest_is_resumed_with_its_seed(tmp_path):
    save(tmp_path / 'iter_4.pth')
    newest = save(tmp_path / 'iter_10.pth')
    source, said, cfg = settle(tmp_path)
    assert source == newest and said == [f'resuming from {newest}']
    assert cfg.randomness.seed == 7
    assert settle(tmp_path, randomness={'seed': 3})[2].randomness.seed == 3
    assert settle(tmp_path, resume=False)[0] is None


@pytest.mark.parametrize(
    'hook, name',
    [
        ({'out_dir': 'elsewhere'}, 'elsewhere/run/iter_4.pth'),
        ({'filename_tmpl': 'step_{:06d}.pth'}, 'run/step_000004.pth'),
        ({'by_epoch': True}, 'run/epoch_4.pth'),
    ],
)
@pytest.mark.parametrize('pointer', [True, False])
def test_checkpoints_are_found_where_the_hook_puts_them(tmp_path, hook, name, pointer):
    path = save(tmp_path / name)
    (tmp_path / 'run').mkdir(exist_ok=True)
    if pointer:
        (tmp_path / 'run/last_checkpoint').write_text(path)
    if 'out_dir' in hook:
        hook = {'out_dir': str(tmp_path / hook['out_dir'])}
    assert settle(tmp_path / 'run', hook=hook)[0] == path


def test_last_checkpoint_goes_before_an_older_course(tmp_path):
    older = save(tmp_path / 'iter_8.pth')
    os.utime(older, (1, 1))
    newer = save(tmp_path / 'iter_6.pth')
    (tmp_path / 'last_checkpoint').write_text(newer)
    assert settle(tmp_path)[0] == newer
    # Not so one that a killed run had no time to name.
    os.utime(tmp_path / 'last_checkpoint', (2, 2))
    unnamed = save(tmp_path / 'iter_9.pth')
    assert settle(tmp_path)[0] == unnamed


@pytest.mark.parametrize('content', ['', 'gone.pth', '/gone/iter_4.pth'])
def test_last_checkpoint_may_be_empty_or_name_a_file_that_is_gone(tmp_path, content):
    path = save(tmp_path / 'iter_4.pth')
    (tmp_path / 'last_checkpoint').write_text(content)
    assert settle(tmp_path)[0] == path
    os.remove(path)
    if content:
        with pytest.raises(ValueError, match=r'no whole checkpoint .*gone.* does not exist'):
            settle(tmp_path)


def flip(path, share):
    """One bit, at a share of the file."""
    content = bytearray(Path(path).read_bytes())
    content[int(share * len(content))] ^= 16
    Path(path).write_bytes(content)


@pytest.mark.parametrize(
    'damage_file, word',
    [
        (damage, 'truncated'),
        (lambda path: os.truncate(path, 0), 'empty'),
        (lambda path: flip(path, 0.2), 'damaged'),  # in the weights
        (lambda path: flip(path, 0.03), 'damaged'),  # in their description
    ],
    ids=['truncated', 'empty', 'flipped weights', 'flipped description'],
)
def test_damaged_file_is_passed_over_in_a_sentence(tmp_path, damage_file, word):
    whole = save(tmp_path / 'iter_2.pth')
    newest = save(tmp_path / 'iter_4.pth', state_dict={'weight': torch.randn(1000)})
    (tmp_path / 'last_checkpoint').write_text(newest)
    damage_file(newest)
    source, said, _ = settle(tmp_path)
    assert source == whole
    assert len(said) == 2 and "iter_4.pth' is" in said[0] and word in said[0]


def test_only_damaged_files_stop_the_run(tmp_path):
    damage(save(tmp_path / 'iter_2.pth'))
    with pytest.raises(ValueError, match=r"no whole checkpoint in .*iter_2.pth' is truncated"):
        settle(tmp_path)


def test_refused_file_stops_the_run(tmp_path):
    save(tmp_path / 'iter_2.pth')
    save(tmp_path / 'iter_4.pth', extra=Foreign())
    with pytest.raises(ValueError, match=r"iter_4.pth' is refused: it holds \S*Foreign"):
        settle(tmp_path)
    with pytest.raises(ValueError, match='refused'):
        find_resumable(tmp_path)


def test_weights_without_a_state_are_not_resumed(tmp_path):
    torch.save({'state_dict': {}}, tmp_path / 'iter_4.pth')
    with pytest.raises(ValueError, match='holds no state of a training'):
        settle(tmp_path)
    with pytest.raises(ValueError, match='holds no state of a training'):
        settle(tmp_path / 'new', named=str(tmp_path / 'iter_4.pth'))


def test_best_weights_alone_stop_the_run(tmp_path):
    save(tmp_path / 'best_mIoU_iter_4.pth')
    with pytest.raises(ValueError, match='best_mIoU_iter_4.pth'):
        settle(tmp_path)


def test_load_from_of_the_command_goes_first(tmp_path):
    save(tmp_path / 'run/iter_8.pth')
    chosen = save(tmp_path / 'other/iter_2.pth')
    assert settle(tmp_path / 'run', named=chosen, load_from=chosen)[0] == chosen
    with pytest.raises(FileNotFoundError, match='gone.pth'):
        settle(tmp_path / 'run', named='gone.pth', load_from='gone.pth')


def test_load_from_of_the_config_is_where_a_new_run_begins(tmp_path):
    start = save(tmp_path / 'other/iter_2.pth')
    assert settle(tmp_path / 'run', load_from=start)[0] == start
    own = save(tmp_path / 'run/iter_8.pth')
    assert settle(tmp_path / 'run', load_from=start)[0] == own


def test_weights_of_the_config_are_where_a_new_run_begins(tmp_path):
    weights = str(tmp_path / 'weights.pth')
    torch.save({'state_dict': {}}, weights)
    source, said, cfg = settle(tmp_path / 'run', load_from=weights)
    assert source is None and cfg.load_from == weights
    assert said == [
        f'no checkpoint to resume in {str(tmp_path / "run")!r}, starting from {weights!r}'
    ]


@pytest.mark.parametrize(
    'resume, other, said',
    [
        (True, 'iter_4.pth', None),
        (True, None, 'process 0 goes on from iter_4.pth, process 1 from the beginning'),
        (True, 'iter_2.pth', 'process 0 goes on from iter_4.pth, process 1 from iter_2.pth'),
        (False, None, None),
        (False, 'iter_4.pth', 'process 0 goes on from the beginning, process 1 from iter_4.pth'),
    ],
)
def test_all_processes_go_on_from_the_same_checkpoint(resume, other, said, monkeypatch):
    monkeypatch.setattr('mita_seg.engine.resuming.all_gather_object', lambda own: [own, other])
    cfg = Config({'work_dir': 'run', 'resume': resume, 'load_from': 'mounted/run/iter_4.pth'})
    if said is None:
        require_one_start(cfg)
        return
    with pytest.raises(ValueError, match=f"{said}: work_dir 'run' must be a folder that all"):
        require_one_start(cfg)
