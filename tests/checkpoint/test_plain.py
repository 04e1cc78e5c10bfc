"""What our tools write they can read."""

import collections
import enum
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmengine')

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer

from mita_seg.checkpoint import load_checkpoint_safely, plain_checkpoint, verify_checkpoint

Pair = collections.namedtuple('Pair', 'a b')


class Kind(enum.IntEnum):
    ROAD = 3


class Text(str):
    pass


META = {
    'config': ConfigDict(palette=ConfigDict(road=[1, 2, 3])),
    'whole': Config({'a': {'b': 1}}),
    'default': collections.defaultdict(dict, {'a': {}}),
    'pair': Pair(1, (2, 3)),
    'queue': collections.deque([1, 2]),
    'kind': Kind.ROAD,
    'text': Text('road'),
    'path': Path('a/b'),
    'numbers': [np.float64(0.5), np.int64(3), np.bool_(True)],
    'objects': np.array([1, 'a', None], dtype=object),
    'array': np.arange(3),
    'set': {1, 2},
    'by number': {1: 'a', (2, 3): 'b'},
}
PLAIN = {
    'config': {'palette': {'road': [1, 2, 3]}},
    'whole': {'a': {'b': 1}},
    'default': {'a': {}},
    'pair': (1, (2, 3)),
    'queue': [1, 2],
    'kind': 3,
    'text': 'road',
    'path': 'a/b',
    'numbers': [0.5, 3, True],
    'objects': [1, 'a', None],
    'set': {1, 2},
    'by number': {1: 'a', (2, 3): 'b'},
}


def written(tmp_path, checkpoint, said=None):
    path = tmp_path / 'file.pth'
    torch.save(plain_checkpoint(checkpoint, pytest.fail if said is None else said.append), path)
    verify_checkpoint(path)
    return load_checkpoint_safely(path)


def test_values_become_plain(tmp_path):
    meta = written(tmp_path, {'meta': META})['meta']
    assert meta.pop('array').tolist() == [0, 1, 2]
    assert meta == PLAIN
    # Also for whoever loads it without our list of what is allowed.
    del META['array']
    torch.save(plain_checkpoint({'meta': META}, pytest.fail), tmp_path / 'file.pth')
    assert torch.load(tmp_path / 'file.pth', weights_only=True)['meta'] == PLAIN


def test_weights_keep_their_order_and_versions(tmp_path):
    state = torch.nn.BatchNorm2d(3).state_dict()
    loaded = written(tmp_path, {'state_dict': state})['state_dict']
    assert list(loaded) == list(state)
    assert loaded._metadata == state._metadata


def test_log_buffer_with_a_statistic_of_a_program(tmp_path):
    try:
        HistoryBuffer.register_statistics(lambda self: 42)
        hub = {'log_scalars': {'loss': HistoryBuffer([1.0, 3.0], [1, 1])}}
        loaded = written(tmp_path, {'message_hub': hub})['message_hub']
    finally:
        del HistoryBuffer._statistics_methods['<lambda>']
    assert loaded['log_scalars']['loss'].mean() == 2.0


def test_log_buffers_are_read_by_torch_load_and_come_back_by_ours(tmp_path):
    buffer = HistoryBuffer([1.0, 3.0, 5.0], [1, 1, 2], max_length=7)
    loaded = written(tmp_path, {'message_hub': {'log_scalars': {'loss': buffer}}})
    torch.load(tmp_path / 'file.pth', weights_only=True)  # as MMSegmentation's publish_model
    found = loaded['message_hub']['log_scalars']['loss']
    assert type(found) is HistoryBuffer and found.max_length == 7
    for values, expected in zip(found.data, buffer.data, strict=True):
        assert values.tolist() == expected.tolist() and values.dtype == expected.dtype
    found.update(4.0)  # its arrays are its own
    assert found.current() == 4.0


@pytest.mark.parametrize(
    'parts',
    [None, (1, 2, 3), (torch.zeros(2), torch.zeros(3), 5), (torch.zeros(2), torch.zeros(2), 'a')],
)
def test_what_only_looks_like_a_log_buffer_stays(parts, tmp_path):
    torch.save({'meta': {'mmengine.HistoryBuffer': parts}}, tmp_path / 'file.pth')
    meta = load_checkpoint_safely(tmp_path / 'file.pth')['meta']
    assert str(meta) == str({'mmengine.HistoryBuffer': parts})


def test_functions_are_left_out_of_schedulers(tmp_path):
    states = [{'last_step': 3, 'anneal': lambda x: x, 'method': 'a'.upper}]
    loaded = written(tmp_path, {'param_schedulers': states})
    assert loaded['param_schedulers'] == [{'last_step': 3}]


def test_other_objects_are_left_out_and_named(tmp_path):
    said = []
    meta = {'known': 1, 'model': torch.nn.Linear(1, 1), 'list': [1, object()]}
    loaded = written(tmp_path, {'meta': {'inner': meta}, 'mine': object()}, said)
    assert loaded == {'meta': {'inner': {'known': 1}}}
    assert [sentence.split(' is a ')[0] for sentence in said] == [
        f'left out of the checkpoint: {name}'
        for name in ('meta.inner.model', 'meta.inner.list[1]', 'mine')
    ]


@pytest.mark.parametrize('part', ['state_dict', 'optimizer'])
def test_state_that_training_needs_is_not_left_out(part):
    with pytest.raises(ValueError, match=rf'{part}.layer.extra is a builtins.object'):
        plain_checkpoint({part: {'layer': {'extra': object()}}}, pytest.fail)
