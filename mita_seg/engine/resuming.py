"""What a training run starts from: a checkpoint to go on from, weights, or nothing."""

import os

from mmengine.dist import all_gather_object

from mita_seg.checkpoint import find_newest, load_checkpoint_safely
from mita_seg.checkpoint.structure import meta_of


def settle_start(cfg, resume, named=None, say=print):
    """Settle ``resume`` and ``load_from`` of a config, in place.

    With MMEngine's meaning: ``load_from`` alone gives the weights to start from; to resume goes on
    from ``load_from`` or, without it, from the newest checkpoint of the run. A run that has left
    checkpoints goes before a ``load_from`` that its config holds, from which it has begun, but not
    before one named with the command.

    Args:
        cfg (Config): With ``work_dir``.
        resume (bool): Whether to go on, where there is something to go on from.
        named (str, optional): The ``load_from`` named with the command.
        say (Callable[[str], None]): Told in a sentence what is found.

    Raises:
        ValueError: What is there cannot be resumed: damaged, refused, or weights without the state
            of a training.
        FileNotFoundError: The checkpoint named does not exist.
    """
    cfg.resume = False
    if not resume:
        return
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    if named:
        source, checkpoint = _load(named)
    else:
        found = find_newest(cfg.work_dir, hook, say)
        source, checkpoint = found or _load(cfg.get('load_from'))
    if source is None:
        say(f'no checkpoint to resume in {cfg.work_dir!r}, starting from the beginning')
        return
    if checkpoint is not None and not _has_state(checkpoint):
        if source == cfg.get('load_from') and not named:
            say(f'no checkpoint to resume in {cfg.work_dir!r}, starting from {source!r}')
            return
        raise ValueError(
            f'checkpoint {source!r} holds no state of a training (meta.iter, meta.epoch, '
            'message_hub), so it cannot be resumed; without resuming, load_from takes its weights'
        )
    say(f'resuming from {source}')
    cfg.resume, cfg.load_from = True, source
    _repeat_seed(cfg, checkpoint)


def require_one_start(cfg):
    """Make sure that all processes of a training go on from the same checkpoint, or none does.

    A machine without the others' work directory finds nothing to go on from there, and would train
    with weights of its own.

    Args:
        cfg (Config): After :func:`settle_start`, in a process that has joined the others.

    Raises:
        ValueError: They start from different checkpoints.
    """
    starts = all_gather_object(os.path.basename(cfg.load_from) if cfg.resume else None)
    for rank, start in enumerate(starts):
        if start != starts[0]:
            raise ValueError(
                f'process 0 goes on from {starts[0] or "the beginning"}, process {rank} from '
                f'{start or "the beginning"}: work_dir {cfg.work_dir!r} must be a folder that all '
                'machines share'
            )


def _load(source):
    if not source or '://' in source or os.path.isdir(source):
        return source or None, None
    return source, load_checkpoint_safely(source)


def _has_state(checkpoint):
    meta = meta_of(checkpoint)
    known = all(_is_count(meta.get(unit), 2**63) for unit in ('iter', 'epoch'))
    return known and isinstance(checkpoint.get('message_hub'), dict)


def _is_count(number, end):
    return isinstance(number, int) and 0 <= number < end


def _repeat_seed(cfg, checkpoint):
    """Let the samplers, built before MMEngine reads the checkpoint, have the seed in it."""
    seed = meta_of(checkpoint).get('seed')
    randomness = cfg.get('randomness') or {}
    if seed is not None and not _is_count(seed, 2**32):
        raise ValueError(
            f'checkpoint {cfg.load_from!r} cannot be resumed: its seed is no number of 32 bits'
        )
    if seed is not None and randomness.get('seed') is None:
        cfg.randomness = {**randomness, 'seed': seed}
