"""What a pickle may hold, and what it may not do with it."""

import collections
import datetime
import pickle

import numpy as np
import pytest
import torch

from mita_seg.checkpoint import DamagedCheckpoint, load_checkpoint_safely

VALUES = {
    'array': np.arange(6, dtype=np.float32).reshape(2, 3),
    'in columns': np.arange(6).reshape(2, 3).T,
    'empty': np.zeros((0, 3), np.int64),
    'big-endian': np.arange(3, dtype='>i4'),
    'text': np.array(['road', 'sky']),
    'truth': np.array([True, False]),
    'scalar': np.float16(0.5),
    'text scalar': np.str_('road'),
    'in containers': (np.zeros(2), [np.ones(2)], {'x': np.ones(1)}),
    'default dict': collections.defaultdict(int, {'a': 1}),
    'nested default dict': {'x': collections.defaultdict(list, {'a': [1]})},
    'date': datetime.datetime(2026, 11, 27, 10, 30, tzinfo=datetime.timezone.utc),
    'duration': datetime.timedelta(days=1, seconds=2),
    'slice': slice(1, None, 2),
    'range': range(0, 9, 3),
    'frozen set': frozenset((1, 2)),
    'no bytes': b'',
}


class Call:
    """A pickle of this calls something with arguments of its choice."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def load(tmp_path, value):
    path = tmp_path / 'file.pth'
    torch.save({'value': value}, path)
    return load_checkpoint_safely(path)['value']


def same(first, second):
    if isinstance(first, (tuple, list)):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, np.ndarray):
        alike = type(second) is np.ndarray and second.dtype == first.dtype
        return alike and np.array_equal(first, second)
    return first == second


@pytest.mark.parametrize('name', VALUES)
def test_plain_values_load(tmp_path, name):
    assert same(VALUES[name], load(tmp_path, VALUES[name]))


def test_arrays_can_be_written_to(tmp_path):
    array = load(tmp_path, np.zeros(3))
    array[0] = 1
    assert array.tolist() == [1, 0, 0]


def test_values_of_mmengine_load(tmp_path):
    pytest.importorskip('mmengine')
    from mmengine.config import ConfigDict
    from mmengine.optim import OneCycleLR

    assert load(tmp_path, ConfigDict(a=ConfigDict(b=[ConfigDict(c=1)]))) == {'a': {'b': [{'c': 1}]}}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    state = OneCycleLR(optimizer, eta_max=1.0, total_steps=8, by_epoch=False).state_dict()
    assert load(tmp_path, state)['anneal_func'] is state['anneal_func']


def test_a_file_cannot_change_the_statistics_of_log_buffers(tmp_path):
    logging = pytest.importorskip('mmengine.logging')
    buffer = logging.HistoryBuffer([1.0, 3.0], [1, 1])
    before = dict(logging.HistoryBuffer._statistics_methods)
    state = {**buffer.__getstate__(), 'statistics_methods': {'mean': 'nonsense'}}

    class Buffer(logging.HistoryBuffer):
        def __reduce__(self):
            return logging.HistoryBuffer, (), state

    loaded = load(tmp_path, Buffer())
    assert loaded.mean() == 2.0 and type(loaded) is logging.HistoryBuffer
    assert logging.HistoryBuffer._statistics_methods == before


@pytest.mark.parametrize(
    'value',
    [
        Call(np.ndarray, (1,), 'O', b'AAAAAAAA'),
        Call(np.ndarray, (4,), 'f8', b'AAAAAAAA'),
        Call(np.dtype, 'O'),
        Call(np.dtype, [('a', 'O')]),
        np.array([{}]),
        np.zeros(2, dtype=[('a', 'O')]),
        np.zeros(2, dtype=[('a', 'f4')]),
        np.array(['2026-11-27'], dtype='M8[D]'),
        Call(list, (1, 2)),
        torch.nn.Linear(1, 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_reaches_into_memory_or_is_no_data_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match='refused: it holds') as refusal:
        load(tmp_path, value)
    assert not isinstance(refusal.value, DamagedCheckpoint)


def test_shape_beyond_the_bytes_is_not_built(tmp_path):
    class Wide(np.ndarray):
        def __reduce__(self):
            function, args, (version, _, *rest) = np.zeros(1).__reduce__()
            return function, args, (version, (10**12,), *rest)

    with pytest.raises(DamagedCheckpoint):
        load(tmp_path, np.zeros(1).view(Wide))


def test_any_flipped_bit_is_found_or_harmless(tmp_path):
    path, flipped = tmp_path / 'file.pth', tmp_path / 'flipped.pth'
    weights = torch.arange(50.0)
    torch.save({'state_dict': {'weight': weights}, 'meta': {'name': 'sky' * 9}}, path)
    data, found = path.read_bytes(), 0
    for position in range(0, len(data), 5):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        flipped.write_bytes(changed)
        try:
            loaded = load_checkpoint_safely(flipped)
        except DamagedCheckpoint:
            found += 1
        else:  # in the padding
            assert torch.equal(loaded['state_dict']['weight'], weights)
            assert loaded['meta'] == {'name': 'sky' * 9}
    assert found > 100


def test_files_that_torch_wrote_without_checksums_load(tmp_path):
    path = tmp_path / 'file.pth'
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({'weight': torch.ones(3)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(load_checkpoint_safely(path)['weight'], torch.ones(3))


def test_another_protocol_is_refused_and_not_called_damaged(tmp_path):
    path = tmp_path / 'file.pth'
    torch.save({'weight': torch.ones(3)}, path, pickle_protocol=pickle.HIGHEST_PROTOCOL)
    with pytest.warns(UserWarning, match='pickle protocol'):  # noqa: SIM117
        with pytest.raises(ValueError, match='refused: it is not plain data'):
            load_checkpoint_safely(path)
