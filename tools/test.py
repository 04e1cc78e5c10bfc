"""Evaluate a segmentor."""

import argparse

from mita_seg.utils.cli import (
    ends_on_full_disk,
    load_evaluation_config,
    parse_runner_args,
    prepare_work_dir,
    user_errors,
)
from mita_seg.utils.threads import THREADS, limit_threads_beside_gpu

PROG = 'test.py'


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__, epilog=THREADS)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder of the log and the metrics')
    parser.add_argument('--out', help='folder for the predictions, one PNG an image')
    parser.add_argument('--show', action='store_true', help='show the painted images')
    parser.add_argument('--show-dir', help='folder for the painted images')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds an image is shown')
    parser.add_argument('--tta', action='store_true', help='multi-scale and flip testing')
    return parse_runner_args(parser, argv)


def prepare_config(args):
    """Read the config and check all that can be checked before a model is built."""
    for folder in filter(None, (args.out, args.show_dir)):
        prepare_work_dir(folder)
    cfg = load_evaluation_config(args, PROG)
    if args.show or args.show_dir:
        show_predictions(cfg, args)
    if args.tta:
        use_tta(cfg)
    return cfg


def show_predictions(cfg, args):
    """Turn on the painting of the predictions."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ValueError(
            '--show and --show-dir need default_hooks.visualization (SegVisualizationHook)'
        )
    if hook.type == 'SegVisualizationHook':
        hook.type = 'PaintPredictionsHook'
    # Every image, not the hook's default of every fiftieth.
    hook.update(draw=True, interval=1, show=args.show, wait_time=args.wait_time)
    if args.show_dir:
        cfg.visualizer['save_dir'] = args.show_dir


def use_tta(cfg):
    """Wrap the model for test-time augmentation."""
    if 'tta_pipeline' not in cfg or 'tta_model' not in cfg:
        raise ValueError('--tta needs tta_pipeline and tta_model in the config')

    from mita_seg.datasets.wrapped import inner_datasets

    for dataset in inner_datasets(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline
    cfg.model = {**cfg.tta_model, 'module': cfg.model}


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool."""
    with user_errors(PROG):
        args = parse_args(argv)
        limit_threads_beside_gpu()
        cfg = prepare_config(args)

    from mita_seg.checkpoint.matching import require_matching_checkpoint
    from mita_seg.engine.save_predictions import SavePredictionsHook, leave_files_to_evaluators
    from mita_seg.utils.cli import build_runner

    write_files = args.out and not leave_files_to_evaluators(cfg, args.out)
    runner = build_runner(cfg)
    require_matching_checkpoint(runner, PROG)
    if write_files:
        runner.register_hook(SavePredictionsHook(args.out))
    runner.test()


if __name__ == '__main__':
    main()
