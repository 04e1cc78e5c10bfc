"""Data sets inside wrappers are found, and read another folder when they are told to."""

import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config

from mita_seg.datasets.wrapped import inner_datasets, set_data_root

PLAIN = {'type': 'A', 'data_root': 'old'}
WRAPPED = {
    'type': 'RepeatDataset',
    'dataset': {'type': 'ConcatDataset', 'datasets': [PLAIN, {'type': 'B'}]},
}


def test_wrappers_are_looked_through():
    assert list(inner_datasets(WRAPPED)) == [PLAIN, {'type': 'B'}]
    assert list(inner_datasets(PLAIN)) == [PLAIN]
    assert list(inner_datasets(None)) == []


def test_every_data_set_of_every_loader_reads_the_folder(tmp_path):
    cfg = Config(
        {
            'train_dataloader': {'batch_size': 2, 'dataset': WRAPPED},
            'val_dataloader': None,
            'test_dataloader': {'dataset': PLAIN},
        }
    )
    before = cfg.to_dict()
    set_data_root(cfg, str(tmp_path))
    train, test = (cfg[f'{name}_dataloader'].dataset for name in ('train', 'test'))
    assert [d.data_root for d in (*inner_datasets(train), test)] == [str(tmp_path)] * 3
    for dataset in (*inner_datasets(train), test):
        dataset.pop('data_root')
    for loader in ('train', 'test'):
        for dataset in inner_datasets(before[f'{loader}_dataloader']['dataset']):
            dataset.pop('data_root', None)
    assert cfg.to_dict() == before


def test_folder_must_exist_and_the_config_have_data(tmp_path):
    with pytest.raises(ValueError, match=r"^--data-root '.*gone' is no folder$"):
        set_data_root(Config({'test_dataloader': {'dataset': PLAIN}}), str(tmp_path / 'gone'))
    with pytest.raises(ValueError, match='the config has no data set'):
        set_data_root(Config({'test_dataloader': None}), str(tmp_path))
