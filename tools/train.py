"""Train a segmentor."""

import argparse
from functools import partial

from mita_seg.utils.cli import (
    check_initial_weights,
    ends_on_full_disk,
    leave_out_pretrained,
    load_runner_config,
    parse_runner_args,
    prepare_work_dir,
    say,
    user_errors,
)
from mita_seg.utils.threads import THREADS, limit_threads_beside_gpu

PROG = 'train.py'


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__, epilog=THREADS)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder of logs and checkpoints')
    parser.add_argument(
        '--resume',
        action='store_true',
        help='go on from the latest checkpoint, or from --cfg-options load_from=FILE',
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    return parse_runner_args(parser, argv)


def prepare_config(args):
    """Read the config and check all that can be checked before a model is built."""
    cfg = load_runner_config(args)

    from mita_seg.datasets import check_data, training_loaders
    from mita_seg.engine.resuming import settle_start

    prepare_work_dir(cfg.work_dir)
    check_data(cfg, training_loaders(cfg))
    if args.amp:
        from mita_seg.engine.amp import enable_amp

        enable_amp(cfg)
    named = (args.cfg_options or {}).get('load_from')
    settle_start(cfg, args.resume or cfg.get('resume', False), named, partial(say, PROG))
    if cfg.resume:
        # The checkpoint holds every weight: pretrained ones need not be fetched.
        leave_out_pretrained(cfg)
    else:
        check_initial_weights(cfg)
    return cfg


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool."""
    with user_errors(PROG):
        args = parse_args(argv)
        limit_threads_beside_gpu()
        cfg = prepare_config(args)

    from mita_seg.checkpoint.matching import require_matching_checkpoint
    from mita_seg.engine.resuming import require_one_start
    from mita_seg.utils.cli import build_runner

    runner = build_runner(cfg)
    with user_errors(PROG):
        require_one_start(cfg)
    require_matching_checkpoint(runner, PROG, backbone_only=not cfg.resume)
    runner.train()


if __name__ == '__main__':
    main()
