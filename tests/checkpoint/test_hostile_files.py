"""Files that run code, lie or are damaged: nothing runs, one sentence names the file."""

import collections
import time

import numpy as np
import pytest
import torch

from mita_seg.checkpoint import DamagedCheckpoint, find_newest, load_checkpoint_safely
from support import hostile_checkpoints as hostile

LYING = hostile.lying()
RUNNING = list(hostile.running('trace'))
# What holds objects is told apart from what is damaged: a resumed run passes damaged files over.
REFUSED = {'program.pth', 'number.pth', 'member.npz', *(f'array-{i}.npz' for i in (3, 4, 5, 7))}

# Storages of more bytes than the file holds for them.
UNSEEN = ('tensor-0.pth', 'tensor-8.pth')
OLD_TORCH = tuple(map(int, torch.__version__.split('.')[:2])) < (2, 11)


def refusal(load, path):
    """What a reader says; within moments, and without the memory that a file claims."""
    begin = time.monotonic()
    with pytest.raises(ValueError, match=path.name) as refused:
        load(str(path))
    assert time.monotonic() - begin < 5
    assert '\n' not in str(refused.value)
    return refused.value


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize('name', RUNNING)
def test_no_code_of_a_file_runs(tmp_path, name):
    path, trace = tmp_path / name, tmp_path / 'trace'
    path.write_bytes(hostile.running(trace)[name])
    refusal(load_checkpoint_safely, path)
    assert not trace.exists()


@pytest.mark.filterwarnings('ignore:Detected pickle protocol', "ignore:'torch.load' received")
@pytest.mark.parametrize('name', LYING)
def test_lies_and_damage_are_one_sentence(tmp_path, name):
    if name in UNSEEN and OLD_TORCH:
        pytest.xfail('torch 2.7 does not compare the size of a storage with what the file holds')
    path = tmp_path / name
    path.write_bytes(LYING[name])
    said = refusal(load_checkpoint_safely, path)
    assert isinstance(said, DamagedCheckpoint) == (name not in REFUSED)


@pytest.mark.parametrize('name', ['code.pth', 'code-legacy.pth', 'code-objects.npz'])
def test_mmengine_runs_no_code_either(tmp_path, name):
    runner = pytest.importorskip('mmengine.runner')
    pytest.importorskip('mita_seg.models')
    path, trace = tmp_path / name, tmp_path / 'trace'
    path.write_bytes(hostile.running(trace)[name])
    refusal(runner.CheckpointLoader.load_checkpoint, path)
    refusal(lambda file: runner.load_checkpoint(torch.nn.Linear(1, 1), file), path)
    assert not trace.exists()


def test_a_folder_is_named(tmp_path):
    (tmp_path / 'a.pth').mkdir()
    with pytest.raises(FileNotFoundError, match=r"a\.pth' is a directory"):
        load_checkpoint_safely(tmp_path / 'a.pth')


def test_memory_that_is_not_there_is_named(tmp_path, monkeypatch):
    torch.save({'w': torch.zeros(1)}, tmp_path / 'large.pth')

    def load(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(torch, 'load', load)
    with pytest.raises(MemoryError, match=r"large\.pth' does not fit into memory"):
        load_checkpoint_safely(tmp_path / 'large.pth')


def test_arrays_of_another_byte_order_are_read(tmp_path):
    np.savez(tmp_path / 'a.npz', a=np.arange(3, dtype='>f4'))
    assert load_checkpoint_safely(tmp_path / 'a.npz')['a'].tolist() == [0, 1, 2]


class Shadowed(dict):
    """A pickle of this is an OrderedDict with attributes in the place of its methods."""

    def __reduce__(self):
        return collections.OrderedDict, (), {'items': 3, '_metadata': 4}, None, iter(self.items())


def test_methods_of_a_state_dict_are_its_own(tmp_path):
    torch.save({'state_dict': Shadowed(w=torch.ones(2))}, tmp_path / 'a.pth')
    weights = load_checkpoint_safely(tmp_path / 'a.pth')['state_dict']
    assert [name for name, _ in weights.items()] == ['w'] and not weights._metadata
    torch.nn.Module().load_state_dict(weights, strict=False)


STRUCTURES = {
    'its state_dict is a list': {'state_dict': [1]},
    'its meta is a str': {'state_dict': {}, 'meta': 'text'},
    'the name of a weight is a int': {'state_dict': {1: torch.zeros(1)}},
    'the name of a weight is a NoneType': {None: torch.zeros(1)},
}


@pytest.mark.parametrize('words', STRUCTURES)
def test_what_mmengine_would_stumble_over_is_refused(tmp_path, words):
    runner = pytest.importorskip('mmengine.runner')
    pytest.importorskip('mita_seg.models')
    path = tmp_path / 'odd.pth'
    torch.save(STRUCTURES[words], path)
    assert words in str(refusal(runner.CheckpointLoader.load_checkpoint, path))


def test_code_in_the_newest_checkpoint_of_a_run_is_not_passed_over(tmp_path):
    torch.save({'state_dict': {}}, tmp_path / 'iter_1.pth')
    trace = tmp_path / 'trace'
    (tmp_path / 'iter_2.pth').write_bytes(hostile.running(trace)['code.pth'])
    with pytest.raises(ValueError, match=r"iter_2\.pth' is refused"):
        find_newest(tmp_path)
    assert not trace.exists()
