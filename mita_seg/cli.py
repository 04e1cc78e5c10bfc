"""What the command-line tools share: one-sentence errors, config, work folder."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path


@contextlib.contextmanager
def user_errors(prog):
    """Turn an error of the input into one sentence on stderr and exit status 2.

    Only to be put around the checks of what the user gave; an error of the program itself must keep
    its traceback.

    Args:
        prog (str): Name of the tool, the prefix of the sentence.
    """
    try:
        yield
    except (ValueError, TypeError, OSError, KeyError) as error:
        message = str(error.args[0]) if isinstance(error, KeyError) else str(error)
        print(f'{prog}: {" ".join(message.split())}', file=sys.stderr)
        sys.exit(2)


def load_config(path, options=None):
    """Read a config and apply ``--cfg-options``.

    Args:
        path (str): The config file.
        options (dict, optional): What ``DictAction`` parsed.

    Returns:
        Config: The config.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError, ValueError: The file is no valid config, or no attention can be built from it.
    """
    from mmengine.config import Config

    if not Path(path).is_file():
        raise FileNotFoundError(f'config {path!r} does not exist')
    try:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(options or {})
    # A config is Python: anything can go wrong in it.
    except Exception as error:
        raise ValueError(f'config {path!r}: {type(error).__name__}: {error}') from error

    from mita_seg.models.config_check import check_attention_configs

    check_attention_configs(cfg.get('model'))
    return cfg


def parse_runner_args(parser, argv=None):
    """Add the options that training and testing share, with MMSegmentation's names, and parse.

    Args:
        parser (argparse.ArgumentParser): With the tool's own arguments.
        argv (Sequence[str], optional): The command line; that of the process by default.

    Returns:
        argparse.Namespace: The arguments.
    """
    from mmengine.config import DictAction

    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config: a.b=1 c="[1,2]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def load_runner_config(args):
    """Read the config of a training or testing tool; work_dir defaults to the config's name.

    Args:
        args (argparse.Namespace): From `parse_runner_args`, with `config` and `work_dir`.

    Returns:
        Config: The config, with `launcher` and `work_dir` set.
    """
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = (
        args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    )
    return cfg


def load_evaluation_config(args):
    """Read the config of a tool that evaluates a checkpoint, and check data and checkpoint.

    Args:
        args (argparse.Namespace): From `parse_runner_args`, with `config`, `work_dir` and
            `checkpoint`.

    Returns:
        Config: The config, which loads the checkpoint; with ``cudnn_benchmark`` off, so that
        evaluation repeats to the bit.
    """
    from mita_seg.checkpoint import load_checkpoint_safely
    from mita_seg.datasets import check_data

    cfg = load_runner_config(args)
    prepare_work_dir(cfg.work_dir)
    check_data(cfg, loaders=('test_dataloader',))
    load_checkpoint_safely(args.checkpoint)
    cfg.load_from = args.checkpoint
    # Choosing the quickest convolutions anew in every process, it may choose other roundings.
    cfg.merge_from_dict({'env_cfg.cudnn_benchmark': False})
    # The checkpoint holds every weight: pretrained ones need not be fetched first.
    leave_out_pretrained(cfg)
    return cfg


def leave_out_pretrained(cfg):
    """Take the backbone's pretrained weights out of a config, in place: nothing is fetched then."""
    if cfg.model.get('backbone', {}).get('init_cfg'):
        cfg.model.backbone.init_cfg = None


def check_initial_weights(cfg):
    """Read the files that a config starts from, ``load_from`` and the backbone's ``init_cfg``.

    Args:
        cfg (Config): The config; addresses in it are not fetched.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is no checkpoint that can be loaded safely.
    """
    from mita_seg.checkpoint import load_checkpoint_safely

    inits = cfg.model.get('backbone', {}).get('init_cfg') or []
    inits = inits if isinstance(inits, list) else [inits]
    for checkpoint in (cfg.get('load_from'), *(init.get('checkpoint') for init in inits)):
        if checkpoint and '://' not in checkpoint:
            load_checkpoint_safely(checkpoint)


def build_runner(cfg):
    """Build the runner of a config, which loads checkpoints without executing them."""
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    from mita_seg.checkpoint import guard_mmengine_loading

    guard_mmengine_loading()
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def prepare_work_dir(path):
    """Create a folder and make sure that files can be written there.

    Args:
        path (str | os.PathLike): The folder.

    Raises:
        ValueError: It cannot be created or written.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f'work_dir {str(path)!r} cannot be written: {error.strerror}') from error


def require_matching_checkpoint(runner, prog, backbone_only=False):
    """Make a runner refuse a checkpoint that does not fit its model.

    MMEngine only logs the mismatch and goes on with random weights.

    Args:
        runner (Runner): The runner, before it has loaded anything.
        prog (str): Name of the tool, the prefix of the message.
        backbone_only (bool): Refuse only weights of the backbone of another shape, so that training
            may start from a model for other classes.
    """
    load = runner.load_checkpoint

    def load_strictly(filename, map_location='cpu', **kwargs):
        with user_errors(prog):
            try:
                if backbone_only:
                    _try_backbone(runner.model, filename)
                    return load(filename, map_location, **kwargs)
                return load(filename, map_location, **{**kwargs, 'strict': True})
            except RuntimeError as error:
                details = ' '.join(str(error).split())
                details = details if len(details) <= 600 else details[:600] + ' ...'
                raise ValueError(
                    f'checkpoint {filename!r} does not fit the config: {details}'
                ) from error

    runner.load_checkpoint = load_strictly


def _try_backbone(model, filename):
    """Load a checkpoint's backbone; torch raises RuntimeError where a shape differs."""
    from mita_seg.checkpoint import load_checkpoint_safely

    backbone = getattr(getattr(model, 'module', model), 'backbone', None)
    if backbone is None:
        return
    weights = load_checkpoint_safely(filename)
    weights = weights.get('state_dict', weights)
    prefix = 'backbone.'
    own = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
    backbone.load_state_dict(own, strict=False)
