"""A look at the data sets of a config, before anything expensive is built."""

import os
import warnings

from mmseg.datasets import ADE20KDataset, BaseSegDataset
from mmseg.registry import DATASETS

from .class_count import compare_class_counts
from .label_need import require_labels
from .label_sample import SeenLabels, spread, warn_of_orientations
from .suffix import spelt_otherwise
from .wrapped import LOADERS, inner_datasets


def training_loaders(cfg):
    """Names of the data loaders that training reads.

    Args:
        cfg (Config): A config that trains.

    Returns:
        tuple[str, ...]: Without validation where the config has none (``val_cfg`` is None).
        MMEngine's runner opens the validation data of all others, however late they validate.
    """
    return LOADERS[:2] if cfg.get('val_cfg') else LOADERS[:1]


def check_data(cfg, loaders=LOADERS):
    """Check that the data of a config are in place, and that model and metrics can work with them.

    Folders are listed, a few dozen images and label maps are loaded as the pipeline does. Data
    sets that are no ``BaseSegDataset``, and data behind a remote storage back end, are left to
    their own checks.

    What would let a run go on, but to no good end, is a warning: a head with more classes than the
    data, training labels of one class alone, images with an EXIF orientation, images that are
    skipped for the spelling of their suffix.

    Args:
        cfg (Config): The config.
        loaders (Sequence[str]): Which of its data loaders to look at; absent ones are skipped.

    Raises:
        FileNotFoundError: A folder, a split file, images or label maps are missing.
        ValueError: A head has fewer classes than the data, label maps are needed but the data set
            has none, files are empty, or one of the images and label maps looked at is refused by
            :class:`LoadCheckedImage` or :class:`LoadCheckedLabels`.
    """
    found = []
    for loader in loaders:
        seen = SeenLabels()
        for dataset, pipeline in _datasets((cfg.get(loader) or {}).get('dataset')):
            samples = _check_dataset(dataset, loader)
            found += compare_class_counts(cfg.get('model'), dataset, loader)
            require_labels(cfg, loader, samples, pipeline)
            some = spread(samples)
            found += [_skipped_files(dataset), warn_of_orientations(some)]
            seen.look(dataset, some, pipeline)
        if loader == 'train_dataloader' and seen.warning():
            found.append(f'{loader}: {seen.warning()}')
    # One process of a run speaks for all.
    if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
        for sentence in dict.fromkeys(filter(None, found)):
            warnings.warn(sentence, stacklevel=2)


def _datasets(dataset):
    """The data sets inside wrappers, and the configs of their pipelines."""
    for inner in inner_datasets(dataset):
        cls = DATASETS.get(inner['type']) if isinstance(inner['type'], str) else inner['type']
        known = isinstance(cls, type) and issubclass(cls, BaseSegDataset)
        if known and not inner.get('backend_args'):
            arguments = {key: value for key, value in inner.items() if key != 'type'}
            built = cls(**{**arguments, 'pipeline': [], 'lazy_init': True})
            yield built, inner.get('pipeline', ())


def _check_dataset(dataset, loader):
    """List the samples, all of whose files exist."""
    hint = _hint(dataset)
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
        why = _skipped_files(dataset) or hint
        raise FileNotFoundError(f'{loader}: no image ({dataset.img_suffix!r}) in {where!r}; {why}')
    for key, what in (('img_path', 'images'), ('seg_map_path', 'label maps')):
        folder = dataset.data_prefix.get(key)
        if folder:
            present = _files_below(folder)
            sizes = [present.get(os.path.normpath(sample[key])) for sample in samples]
            files = [sample[key] for sample in samples]
            if None in sizes:
                raise FileNotFoundError(f'{_name(loader, what, files, sizes, None)}; {hint}')
            if 0 in sizes:
                raise ValueError(_name(loader, what, files, sizes, 0))
    return samples


def _name(loader, what, files, sizes, size):
    """A sentence about the files of a size; None is that of missing ones."""
    bad = [file for file, each in zip(files, sizes, strict=True) if each == size]
    shown = ', '.join(map(repr, bad[:3])) + (', ...' if bad[3:] else '')
    state = 'missing' if size is None else 'empty'
    return f'{loader}: {len(bad)} of {len(files)} {what} are {state}: {shown}'


def _hint(dataset):
    """Where the files of a data set come from."""
    if hasattr(dataset, 'hint'):
        return dataset.hint
    if isinstance(dataset, ADE20KDataset):
        return 'tools/prepare_ade20k.py checks an ADE20K folder and says where to get one'
    return f"the config's data set is of type {type(dataset).__name__}"


def _skipped_files(dataset):
    """A sentence if images are left out for the spelling of their suffix."""
    folder = dataset.data_prefix.get('img_path')
    lists_folder = type(dataset).load_data_list is BaseSegDataset.load_data_list
    if not folder or not lists_folder or os.path.isfile(dataset.ann_file):
        return None
    suffix = dataset.img_suffix
    skipped = sorted(file for file in _files_below(folder) if spelt_otherwise(file, suffix))
    if not skipped:
        return None
    return (
        f'{folder!r} holds images that are skipped ({len(skipped)}), such as {skipped[0]!r}, since '
        f'img_suffix is {suffix!r}: rename them'
    )


def _files_below(folder):
    """The bytes of every file below a folder; listing is far quicker than asking for each file."""
    found, folders = {}, [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.path)
                elif entry.is_file():
                    found[os.path.normpath(entry.path)] = entry.stat().st_size
    return found
