"""The data sets of a config, also inside wrappers such as RepeatDataset and ConcatDataset."""

import os

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def inner_datasets(dataset):
    """The configs of the data sets inside wrappers.

    Args:
        dataset (dict | None): The ``dataset`` of a data loader.

    Yields:
        dict: A data set that wraps no other, the argument itself if it is one; nothing for None.
    """
    if not dataset:
        return
    inner = dataset.get('datasets') or [dataset.get('dataset')]
    if inner == [None]:
        yield dataset
        return
    for part in inner:
        yield from inner_datasets(part)


def set_data_root(cfg, folder):
    """Let all data loaders of a config read another folder.

    Args:
        cfg (Config): Changed in place.
        folder (str): The ``data_root`` of every data set.

    Raises:
        ValueError: There is no such folder, or the config has no data.
    """
    if not os.path.isdir(folder):
        raise ValueError(f'--data-root {folder!r} is no folder')
    datasets = [
        dataset
        for loader in LOADERS
        for dataset in inner_datasets((cfg.get(loader) or {}).get('dataset'))
    ]
    if not datasets:
        raise ValueError(f'--data-root {folder!r}: the config has no data set')
    for dataset in datasets:
        dataset['data_root'] = folder
