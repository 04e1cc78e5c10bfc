"""What the command-line tools share: one-sentence errors, config, work folder."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from mita_seg.utils.full_disk import describe_full_disk, find_full_disk
from mita_seg.utils.quiet import import_mmseg_quietly

USER_ERRORS = (ValueError, TypeError, OSError, KeyError, ImportError, MemoryError)


@contextlib.contextmanager
def user_errors(prog, kinds=USER_ERRORS):
    """Turn an error of the input into one sentence on stderr and exit status 2.

    Only to be put around the checks of what the user gave; an error of the program itself must keep
    its traceback.

    Args:
        prog (str): Name of the tool, the prefix of the sentence.
        kinds (tuple[type, ...]): Which errors are of the input.
    """
    try:
        yield
    except kinds as error:
        message = str(error.args[0]) if isinstance(error, KeyError) else str(error)
        if isinstance(error, ModuleNotFoundError):
            message = _what_to_install((error.name or '').split('.')[0])
        full = find_full_disk(error)
        if full is not None:
            message = describe_full_disk(full)
        print(f'{prog}: {printable(message)}', file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def ends_on_full_disk(prog, status=2):
    """Let a tool, or a part of it, end with one sentence when a disk is full.

    As a decorator of ``main``, or around a block. Other errors go on.

    Args:
        prog (str): Name of the tool, the prefix of the sentence.
        status (int): Its exit status then.
    """
    try:
        yield
    except Exception as error:
        full = find_full_disk(error)
        if full is None:
            raise
        # Where the output goes may be full as well.
        with contextlib.suppress(OSError):
            print(f'{prog}: {printable(describe_full_disk(full))}', file=sys.stderr, flush=True)
        sys.exit(status)


def printable(message):
    """A message on one line, without what would steer a terminal; names in files may hold it."""
    line = ' '.join(message.split())
    return ''.join(letter if letter.isprintable() else '?' for letter in line)


def _what_to_install(package):
    if package in ('mmengine', 'mmcv', 'mmseg'):
        try:
            import mita_seg.models  # noqa: F401  (which says what to install)
        except ImportError as error:
            return str(error)
    return f'needs the Python package {package!r}, which is not installed'


def say(prog, sentence):
    """Print a sentence of a tool, once for all the processes of a run."""
    if int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0'))) == 0:
        print(f'{prog}: {sentence}', flush=True)


def load_config(path, *options, data_root=None):
    """Read a config and apply ``--data-root`` and ``--cfg-options``.

    Args:
        path (str): The config file.
        *options (dict | None): What ``DictAction`` parsed; later ones go before earlier ones.
        data_root (str, optional): The folder of all its data; options go before it.

    Returns:
        Config: The config.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError, ValueError: The file is no valid config, no attention can be built from it, or
            `data_root` is no folder.
    """
    from mmengine.config import Config

    if not Path(path).is_file():
        raise FileNotFoundError(f'config {path!r} does not exist')
    register_parts()
    try:
        cfg = Config.fromfile(path)
    # A config is Python: anything can go wrong in it.
    except Exception as error:
        raise _bad_config(path, error) from error
    if data_root is not None:
        from mita_seg.datasets.wrapped import set_data_root

        set_data_root(cfg, data_root)
    try:
        for each in options:
            cfg.merge_from_dict(each or {})
    except Exception as error:
        raise _bad_config(path, error) from error

    from mita_seg.models.config_check import check_attention_configs

    check_attention_configs(cfg.get('model'))
    return cfg


def _bad_config(path, error):
    return ValueError(f'config {path!r}: {type(error).__name__}: {error}')


def parse_runner_args(parser, argv=None):
    """Add the options that training and testing share, with MMSegmentation's names, and parse.

    Args:
        parser (argparse.ArgumentParser): With the tool's own arguments.
        argv (Sequence[str], optional): The command line; that of the process by default.

    Returns:
        argparse.Namespace: The arguments.
    """
    add_config_options(parser)
    add_data_root(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args(argv)
    slurm = os.environ.get('SLURM_LOCALID') if args.launcher == 'slurm' else None
    os.environ.setdefault('LOCAL_RANK', slurm or str(args.local_rank))
    return args


def add_config_options(parser):
    """Add ``--cfg-options`` to the arguments of a tool.

    Args:
        parser (argparse.ArgumentParser): With the tool's own arguments.
    """
    from mmengine.config import DictAction

    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config: a.b=1 c="[1,2]"',
    )


def add_data_root(parser):
    """Add ``--data-root`` to the arguments of a tool.

    Args:
        parser (argparse.ArgumentParser): With the tool's own arguments.
    """
    parser.add_argument(
        '--data-root',
        metavar='DIR',
        help='data_root of every data set of the config; --cfg-options go before it',
    )


def load_runner_config(args):
    """Read the config of a training or testing tool; work_dir defaults to the config's name.

    Args:
        args (argparse.Namespace): From `parse_runner_args`, with `config` and `work_dir`.

    Returns:
        Config: The config, with `launcher` and `work_dir` set.
    """
    cfg = load_config(args.config, args.cfg_options, data_root=args.data_root)
    cfg.launcher = args.launcher
    cfg.work_dir = (
        args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    )
    return cfg


def load_evaluation_config(args, prog):
    """Read the config of a tool that evaluates a checkpoint, and check data and checkpoint.

    Where the checkpoint was trained with another attention than the config's, a line says so.

    Args:
        args (argparse.Namespace): From `parse_runner_args`, with `config`, `work_dir` and
            `checkpoint`.
        prog (str): Name of the tool, the prefix of the line.

    Returns:
        Config: The config, which loads the checkpoint; with ``cudnn_benchmark`` off, so that
        evaluation repeats to the bit.
    """
    cfg = load_runner_config(args)
    prepare_work_dir(cfg.work_dir)

    from mita_seg.checkpoint import load_checkpoint_safely
    from mita_seg.checkpoint.trained_attention import describe_other_attention
    from mita_seg.datasets import check_data

    check_data(cfg, loaders=('test_dataloader',))
    difference = describe_other_attention(load_checkpoint_safely(args.checkpoint), cfg)
    if difference:
        say(prog, difference)
    cfg.load_from, cfg.resume = args.checkpoint, False
    # Choosing the quickest convolutions anew in every process, it may choose other roundings.
    cfg.merge_from_dict({'env_cfg.cudnn_benchmark': False})
    # The checkpoint holds every weight: pretrained ones need not be fetched first.
    leave_out_pretrained(cfg)
    return cfg


def leave_out_pretrained(cfg):
    """Take the backbone's pretrained weights out of a config, in place: nothing is fetched then."""
    if cfg.model.get('backbone', {}).get('init_cfg'):
        cfg.model.backbone.init_cfg = None


def check_initial_weights(cfg, fetch=True):
    """Read the files that a config starts from, ``load_from`` and the backbone's ``init_cfg``.

    Args:
        cfg (Config): The config.
        fetch (bool): Whether addresses of pretrained weights are fetched, into torch's cache.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is no checkpoint that can be loaded safely, or cannot be fetched.
    """
    from mita_seg.checkpoint import load_checkpoint_safely

    load_from = cfg.get('load_from')
    if load_from and '://' not in load_from:
        load_checkpoint_safely(load_from)
    inits = cfg.model.get('backbone', {}).get('init_cfg') or []
    for init in inits if isinstance(inits, list) else [inits]:
        checkpoint = init.get('checkpoint')
        if not checkpoint:
            continue
        if '://' not in checkpoint:
            load_checkpoint_safely(checkpoint)
        elif fetch and checkpoint.startswith(('http://', 'https://')):
            _fetch(checkpoint)


def _fetch(address):
    """Fetch pretrained weights before any model is built."""
    from mita_seg.checkpoint import load_checkpoint_safely

    # One process of a machine does; the others find them when they start from them.
    if os.environ.get('LOCAL_RANK', '0') != '0':
        return
    try:
        load_checkpoint_safely(address)
    except ValueError as error:
        raise ValueError(
            f'{error}; --cfg-options model.backbone.init_cfg.checkpoint=FILE takes weights on '
            'disk, model.backbone.init_cfg=None none'
        ) from error


def register_parts():
    """Register everything of ours, also where a config's ``custom_imports`` leave it out."""
    import_mmseg_quietly()

    import mita_seg.datasets
    import mita_seg.engine
    import mita_seg.models  # noqa: F401


def build_runner(cfg):
    """Build the runner of a config, which loads checkpoints without executing them.

    The processes of a launcher are joined first where there is no GPU.

    Args:
        cfg (Config): The config; a `runner_type` other than MMEngine's ``Runner`` is used as it is.

    Returns:
        Runner: A :class:`mita_seg.engine.ResumableRunner`, or the one asked for.
    """
    register_parts()

    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    from mita_seg.checkpoint import guard_mmengine_loading
    from mita_seg.engine import ResumableRunner
    from mita_seg.engine.without_gpu import join_processes_without_gpu

    guard_mmengine_loading()
    join_processes_without_gpu(cfg)

    kind = RUNNERS.get(cfg.get('runner_type', 'Runner'))
    return ResumableRunner.from_cfg(cfg) if kind is Runner else RUNNERS.build(cfg)


def prepare_work_dir(path, name='work_dir'):
    """Create a folder and make sure that files can be written there.

    Args:
        path (str | os.PathLike): The folder.
        name (str): What the user calls it.

    Raises:
        ValueError: It cannot be created or written.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f'{name} {str(path)!r} cannot be written: {error.strerror}') from error
