"""One run in a process of its own: train (or go on training), evaluate, predict a few images."""

import argparse
import os
import sys
from pathlib import Path

from mita_seg.utils.files import write_json

from .lifeline import end_with_parent


def main(argv=None):
    """Run one (config, seed) and leave ``evaluation.json`` and ``samples.npz`` in its folder."""
    parser = argparse.ArgumentParser(prog='mita_seg.comparison.single_run')
    parser.add_argument('--work-dir', type=Path, required=True)
    parser.add_argument('--config', required=True)
    parser.add_argument('--folder', type=Path, required=True)
    parser.add_argument('--seed', type=int, required=True)
    parser.add_argument('--checkpoint', type=Path)
    args = parser.parse_args(argv)

    import torch
    from mmengine.config import Config

    from mita_seg.checkpoint import find_newest
    from mita_seg.checkpoint.matching import require_matching_checkpoint
    from mita_seg.engine.peak_memory import PeakMemoryHook, peak_memory
    from mita_seg.utils.cli import (
        build_runner,
        check_initial_weights,
        leave_out_pretrained,
        user_errors,
    )

    from .progress import ProgressHook
    from .samples import save_samples

    cfg = Config.fromfile(args.config)
    cfg.work_dir = str(args.folder)
    cfg.launcher, cfg.resume = 'none', False
    cfg.randomness = {**cfg.get('randomness', {}), 'seed': args.seed}
    saving = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    saving.pop('out_dir', None)  # all that belongs to a run is in its folder
    name = args.folder.parent.name
    with user_errors(name):
        found = None if args.checkpoint else find_newest(args.folder, saving)
        latest, content = found or (args.checkpoint, None)
        train = args.checkpoint is None and not _is_trained(content, cfg)
        del found, content  # all weights, and the optimizer's state
        if not latest:
            check_initial_weights(cfg)
    if latest:
        # Its own checkpoint goes before the config's load_from, where training only begins.
        cfg.load_from, cfg.resume = str(latest), train
        # The checkpoint holds every weight: pretrained ones need not be fetched.
        leave_out_pretrained(cfg)

    runner = build_runner(cfg)
    memory = PeakMemoryHook()
    progress = ProgressHook(args.folder / 'progress.json', memory)
    for hook in (memory, progress):
        runner.register_hook(hook)
    # As tools/train.py does, training may start from a model for other classes.
    require_matching_checkpoint(runner, name, backbone_only=not latest)
    if train:
        runner.train()
        latest, _ = find_newest(args.folder, saving) or (None, None)
        if latest is None:
            sys.exit('training left no checkpoint: the config needs a CheckpointHook')
    torch.backends.cudnn.benchmark = False  # as tools/test.py, so that evaluation repeats
    metrics = runner.test()
    save_samples(runner, args.folder / 'samples.npz')
    write_json(
        args.folder / 'evaluation.json',
        {
            **{name: round(float(metrics[name]), 2) for name in ('mIoU', 'aAcc', 'mAcc')},
            'peak_mem_mb': round(progress.peak_mem_mb or peak_memory() / 2**20, 1),
            'checkpoint': os.path.relpath(latest, args.work_dir),
        },
    )


def _is_trained(checkpoint, cfg):
    """Whether a checkpoint is the last one of its training."""
    meta = (checkpoint or {}).get('meta') or {}
    return any(
        meta.get(unit, 0) >= cfg.train_cfg.get(f'max_{unit}s', float('inf'))
        for unit in ('iter', 'epoch')
    )


if __name__ == '__main__':
    end_with_parent()
    main()
