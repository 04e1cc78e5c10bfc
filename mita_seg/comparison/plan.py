"""What a comparison consists of."""

import os
from dataclasses import dataclass
from pathlib import Path

from mita_seg.checkpoint import load_checkpoint_safely
from mita_seg.cli import load_config, prepare_work_dir
from mita_seg.datasets import check_data
from mita_seg.files import read_json


@dataclass(frozen=True)
class Run:
    """One config with one seed.

    Attributes:
        work_dir (Path): Folder of the comparison.
        name (str): Stem of the config's file name.
        seed (int): Random seed.
        checkpoint (Path | None): The checkpoint to evaluate; None to train one.
    """

    work_dir: Path
    name: str
    seed: int
    checkpoint: Path | None = None

    @property
    def config(self):
        """The resolved config, as the comparison keeps it."""
        return self.work_dir / self.name / 'config.py'

    @property
    def folder(self):
        """Folder of the run."""
        return self.work_dir / self.name / f'seed{self.seed}'

    def is_evaluated(self):
        """Whether the run's own checkpoint has been evaluated."""
        return self._is_current(self.folder / 'evaluation.json')

    def is_finished(self):
        """Whether everything, timing included, is known."""
        return self._is_current(self.folder / 'result.json')

    def _is_current(self, path):
        found = read_json(path)
        if found is None:
            return False
        tested = (self.work_dir / found['checkpoint']).resolve()
        if self.checkpoint is None:
            return self.folder.resolve() in tested.parents
        # A checkpoint given by the user may have been replaced since.
        return tested == self.checkpoint.resolve() and (
            path.stat().st_mtime >= self.checkpoint.stat().st_mtime
        )


def make_runs(configs, work_dir, seeds=(0,), checkpoints=None, cfg_options=None, amp=False):
    """Check what was asked for and lay it out in the work folder.

    Args:
        configs (Sequence[str]): Config files.
        work_dir (str | os.PathLike): Folder of the comparison.
        seeds (Sequence[int]): Random seeds, each config is trained with each of them.
        checkpoints (Sequence[str], optional): One a config: evaluate these, train nothing.
        cfg_options (dict, optional): Overrides for every config.
        amp (bool): Train with automatic mixed precision.

    Returns:
        list[Run]: The runs, seed by seed, so that an early look compares all configs.

    Raises:
        ValueError: The request contradicts itself, the configs use different data, or the folder
            holds runs of a config that has changed since.
        FileNotFoundError: A config, a checkpoint or the data are missing.
    """
    names = [Path(config).stem for config in configs]
    for what, values in (('config', names), ('seed', seeds)):
        twice = sorted({value for value in values if list(values).count(value) > 1})
        if twice:
            raise ValueError(f'{what} given twice: {", ".join(map(str, twice))}')
    if checkpoints is not None:
        if len(checkpoints) != len(configs):
            raise ValueError(
                f'--test-only needs one checkpoint a config: {len(configs)} configs, '
                f'{len(checkpoints)} checkpoints'
            )
        if len(seeds) > 1:
            raise ValueError('--test-only trains nothing, so it takes one seed at most')
        for checkpoint in checkpoints:
            load_checkpoint_safely(checkpoint)

    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    loaders = loaders if checkpoints is None else loaders[2:]
    resolved = []
    for config in configs:
        cfg = load_config(config, cfg_options)
        if amp:
            from mita_seg.amp import enable_amp

            enable_amp(cfg)
        check_data(cfg, loaders)
        resolved.append(cfg)
    _require_same_data(names, resolved, loaders)

    work_dir = Path(work_dir)
    prepare_work_dir(work_dir)
    for name, cfg in zip(names, resolved, strict=True):
        _keep_config(work_dir / name, cfg)
    files = [None] * len(names) if checkpoints is None else [Path(c) for c in checkpoints]
    runs = [
        Run(work_dir, name, seed, file)
        for seed in seeds
        for name, file in zip(names, files, strict=True)
    ]
    for run in runs:
        prepare_work_dir(run.folder)
    return runs


def _require_same_data(names, configs, loaders):
    def data(cfg, loader):
        dataset = cfg[loader]['dataset'].to_dict()
        return {key: value for key, value in dataset.items() if key != 'pipeline'}

    for loader in loaders:
        for name, cfg in zip(names[1:], configs[1:], strict=True):
            if data(cfg, loader) != data(configs[0], loader):
                raise ValueError(
                    f'{name} and {names[0]} use different data ({loader}.dataset), '
                    'which makes their figures incomparable'
                )


def _keep_config(folder, cfg):
    from mmengine.config import Config

    path = folder / 'config.py'
    if path.exists() and Config.fromfile(path).to_dict() != cfg.to_dict():
        raise ValueError(
            f'{str(folder)!r} holds runs of this config with other settings; take another '
            '--work-dir, or delete that folder'
        )
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f'config.{os.getpid()}.tmp.py'
    cfg.dump(temporary)
    temporary.replace(path)
