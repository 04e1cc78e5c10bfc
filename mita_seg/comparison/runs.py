"""What is to be run, and what of it is done."""

import re
from dataclasses import dataclass
from pathlib import Path

from mita_seg.checkpoint import load_checkpoint_safely
from mita_seg.checkpoint.trained_attention import describe_other_attention
from mita_seg.datasets import check_data, training_loaders
from mita_seg.datasets.wrapped import LOADERS
from mita_seg.utils.cli import check_initial_weights, load_config, prepare_work_dir
from mita_seg.utils.files import read_json, write_config, write_json

from .variants import check_keys, parse_variant

VARIANT = 'variant.json'  # beside the config of a run: the file and the options that it came from
_SAME = ('checkpoint', 'mIoU', 'aAcc', 'mAcc')  # in the evaluation and in the result made of it
_MEASURED = ('params', 'flops_model', 'flops_decoder', 'latency_ms', 'iter_ms')  # by ``measure``


@dataclass(frozen=True)
class Run:
    """One config with one seed.

    Attributes:
        work_dir (Path): Folder of the comparison.
        name (str): Stem of the config's file name, or the label of a variant.
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
        checkpoint = found.get('checkpoint')
        if not isinstance(checkpoint, str):
            raise ValueError(f'file {str(path)!r} names no checkpoint: delete it to evaluate again')
        tested = (self.work_dir / checkpoint).resolve()
        if self.checkpoint is None:
            return self.folder.resolve() in tested.parents
        # A checkpoint given by the user may have been replaced since.
        return tested == self.checkpoint.resolve() and (
            path.stat().st_mtime >= self.checkpoint.stat().st_mtime
        )


def make_runs(
    configs,
    work_dir,
    seeds=(0,),
    checkpoints=None,
    cfg_options=None,
    amp=False,
    say=None,
    data_root=None,
):
    """Check what was asked for and lay it out in the work folder.

    Args:
        configs (Sequence[str]): Config files and variants of them, as
            :func:`~mita_seg.comparison.variants.parse_variant` reads them.
        work_dir (str | os.PathLike): Folder of the comparison.
        seeds (Sequence[int]): Random seeds, each config is trained with each of them.
        checkpoints (Sequence[str], optional): One a config: evaluate these, train nothing.
        cfg_options (dict, optional): Overrides for every config; a variant's own go before them.
        amp (bool): Train with automatic mixed precision.
        say (Callable[[str], None], optional): Gets a sentence on each checkpoint that was trained
            with another attention than it is evaluated with.
        data_root (str, optional): The folder of all data; `cfg_options` go before it.

    Returns:
        list[Run]: The runs, seed by seed, so that an early look compares all configs.

    Raises:
        ValueError: The request contradicts itself, the configs use different data from each other
            or from those that the folder holds, or the folder holds runs of a config that has
            changed since.
        FileNotFoundError: A config, a checkpoint or the data are missing.
    """
    variants = [parse_variant(config) for config in configs]
    names = [variant.name for variant in variants]
    labelled = any('@' in config for config in configs)
    for what, values in (('label' if labelled else 'config', names), ('seed', seeds)):
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

    resolved = []
    for variant, checkpoint in zip(variants, checkpoints or [None] * len(configs), strict=True):
        cfg = _load(variant, cfg_options, data_root)
        if amp:
            from mita_seg.engine.amp import enable_amp

            enable_amp(cfg)
        read = ('test_dataloader',)
        check_data(cfg, read if checkpoint is not None else (*training_loaders(cfg), *read))
        if checkpoint is None:
            check_initial_weights(cfg, fetch=False)  # a run does that has not begun
        else:
            difference = describe_other_attention(load_checkpoint_safely(checkpoint), cfg)
            if difference and say:
                say(f'{checkpoint}: {difference}')
        resolved.append(cfg)
    work_dir = Path(work_dir)
    _require_same_data(
        {**_kept_configs(work_dir), **dict(zip(names, resolved, strict=True))},
        LOADERS if checkpoints is None else ('test_dataloader',),
    )

    prepare_work_dir(work_dir)
    for variant, cfg in zip(variants, resolved, strict=True):
        _keep_config(work_dir / variant.name, cfg, variant)
    files = [None] * len(names) if checkpoints is None else [Path(c) for c in checkpoints]
    runs = [
        Run(work_dir, name, seed, file)
        for seed in seeds
        for name, file in zip(names, files, strict=True)
    ]
    for run in runs:
        prepare_work_dir(run.folder)
    return runs


def find_evaluated(runs, work_dir):
    """Find every run of a comparison that is evaluated, whichever command asked for it.

    Args:
        runs (Sequence[Run]): What is asked for now; of these, results of other checkpoints are out
            of date.
        work_dir (Path): Folder of the comparison.

    Returns:
        list[Path]: Folders of runs: the configs in the order in which they were added, and the
        seeds of each in ascending order.
    """
    asked = {run.folder: run for run in runs}
    return [
        folder
        for config in _config_files(work_dir)
        for folder in _seed_folders(config.parent)
        if (
            asked[folder].is_evaluated()
            if folder in asked
            else (folder / 'evaluation.json').exists()
        )
    ]


def read_results(runs, work_dir):
    """Read the results of every run of a comparison that is evaluated.

    Args:
        runs (Sequence[Run]): What is asked for now.
        work_dir (Path): Folder of the comparison.

    Returns:
        list[dict]: What is known of each run, in the order of :func:`find_evaluated`, with
        ``config_file`` and ``options``, what its config came from. Size and speed are None where
        they have not been measured.
    """
    return [
        {**_read_result(folder), **(read_json(folder.parent / VARIANT) or {})}
        for folder in find_evaluated(runs, work_dir)
    ]


def _read_result(folder):
    evaluation, result = read_json(folder / 'evaluation.json'), read_json(folder / 'result.json')
    # It may be the one of an evaluation before, of another checkpoint.
    if result and all(result.get(key) == evaluation.get(key) for key in _SAME):
        return result
    unmeasured = dict.fromkeys(_MEASURED)
    name = {'config': folder.parent.name, 'seed': int(folder.name.removeprefix('seed'))}
    return {**name, **unmeasured, **evaluation}


def _seed_folders(folder):
    found = {path: re.fullmatch(r'seed(-?\d+)', path.name) for path in folder.glob('seed*')}
    return sorted(filter(found.get, found), key=lambda path: int(found[path][1]))


def _config_files(work_dir):
    """The configs that a comparison keeps, oldest first."""
    return sorted(work_dir.glob('*/config.py'), key=lambda path: path.stat().st_mtime_ns)


def _kept_configs(work_dir):
    from mmengine.config import Config

    return {path.parent.name: Config.fromfile(path) for path in _config_files(work_dir)}


def _require_same_data(configs, loaders):
    """Compare the data of configs, given by name, with those of the first."""

    def data(cfg, loader):
        dataset = (cfg.get(loader) or {}).get('dataset') or {}
        return {key: value for key, value in dataset.items() if key != 'pipeline'}

    (first, reference), *others = configs.items()
    for loader in loaders:
        for name, cfg in others:
            both = (data(cfg, loader), data(reference, loader))
            if all(both) and both[0] != both[1]:
                raise ValueError(
                    f'{name} and {first} use different data ({loader}.dataset), which makes their '
                    'figures incomparable; take another --work-dir for one of them'
                )


def _load(variant, cfg_options, data_root):
    cfg = load_config(variant.config, cfg_options, data_root=data_root)
    if not variant.options:
        return cfg
    check_keys(cfg, variant.options)
    return load_config(variant.config, cfg_options, variant.options, data_root=data_root)


def _keep_config(folder, cfg, variant):
    from mmengine.config import Config

    path = folder / 'config.py'
    if path.exists():
        if Config.fromfile(path).to_dict() != cfg.to_dict():
            raise ValueError(
                f'{str(folder)!r} holds runs of this name with other settings; take another '
                'label or --work-dir, or delete that folder'
            )
        return  # the time of the file tells when the config was added
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / VARIANT, {'config_file': variant.config, 'options': variant.options})
    write_config(path, cfg)
