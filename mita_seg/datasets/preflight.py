"""A look at the folders of a config's data sets, before anything expensive is built."""

import os

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

_HINT = 'tools/prepare_ade20k.py checks an ADE20K folder and says where to get one'


def check_data(cfg, loaders=('train_dataloader', 'val_dataloader', 'test_dataloader')):
    """Check that the data of a config are in place: folders, images, one label map an image.

    Only directories are listed, no file is opened. Data sets that are no ``BaseSegDataset``, and
    data behind a remote storage back end, are left to their own checks.

    Args:
        cfg (Config): The config.
        loaders (Sequence[str]): Which of its data loaders to look at; absent ones are skipped.

    Raises:
        FileNotFoundError: A folder, a split file, images or label maps are missing.
    """
    for loader in loaders:
        for dataset in _datasets((cfg.get(loader) or {}).get('dataset')):
            _check_dataset(dataset, loader)


def _datasets(dataset):
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    if not dataset:
        return
    for inner in dataset.get('datasets') or [dataset.get('dataset')]:
        yield from _datasets(inner)
    cls = DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
    known = isinstance(cls, type) and issubclass(cls, BaseSegDataset)
    if known and not dataset.get('backend_args'):
        arguments = {key: value for key, value in dataset.items() if key != 'type'}
        yield cls(**{**arguments, 'pipeline': [], 'lazy_init': True})


def _check_dataset(dataset, loader):
    hint = getattr(dataset, 'hint', _HINT)
    root = dataset.data_root
    if root and not os.path.isdir(root):
        raise FileNotFoundError(f'{loader}: data_root {root!r} does not exist; {hint}')
    for key, folder in dataset.data_prefix.items():
        if folder and not os.path.isdir(folder):
            raise FileNotFoundError(f'{loader}: {key} {folder!r} does not exist; {hint}')
    if dataset.ann_file and not os.path.exists(dataset.ann_file):
        raise FileNotFoundError(f'{loader}: ann_file {dataset.ann_file!r} does not exist')

    samples = dataset.load_data_list()
    if not samples:
        where = dataset.data_prefix.get('img_path')
        raise FileNotFoundError(f'{loader}: no image ({dataset.img_suffix!r}) in {where!r}; {hint}')
    for key, what in (('img_path', 'images'), ('seg_map_path', 'label maps')):
        folder = dataset.data_prefix.get(key)
        if folder:
            present = _files_below(folder)
            missing = [s[key] for s in samples if os.path.normpath(s[key]) not in present]
            if missing:
                shown = ', '.join(map(repr, missing[:3])) + (', ...' if missing[3:] else '')
                raise FileNotFoundError(
                    f'{loader}: {len(missing)} of {len(samples)} {what} are missing: {shown}; '
                    f'{hint}'
                )


def _files_below(folder):
    """Every file below a folder; one listing is far quicker than asking for each file."""
    return {
        os.path.normpath(os.path.join(parent, name))
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
    }
