"""Evaluate one trained model with other numbers of landmarks and keys, and draw a heat map."""

import argparse
from pathlib import Path

from mita_seg.utils.cli import (
    ends_on_full_disk,
    load_evaluation_config,
    parse_runner_args,
    user_errors,
)

PROG = 'sweep_experts.py'


def landmark_grid(text):
    """A grid such as 6x8."""
    height, width = (int(part) for part in text.split('x'))
    return height, width


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder of sweep.json, sweep.png and the log')
    parser.add_argument(
        '--landmarks',
        nargs='+',
        type=landmark_grid,
        default=[(2, 3), (4, 5), (6, 8), (9, 12)],
        metavar='HxW',
        help='landmark grids (default: 2x3 4x5 6x8 9x12)',
    )
    parser.add_argument(
        '--topk',
        nargs='+',
        type=int,
        default=[0, 12, 24, 48, 96],
        metavar='K',
        help='keys per expert (default: 0 12 24 48 96)',
    )
    return parse_runner_args(parser, argv)


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool."""
    with user_errors(PROG):
        args = parse_args(argv)
        cfg = load_evaluation_config(args, PROG)

    from mita_seg.analysis.observe import mita_layers
    from mita_seg.analysis.sweep import check_sweep, draw_sweep, sweep_experts
    from mita_seg.checkpoint.matching import require_matching_checkpoint
    from mita_seg.utils.cli import build_runner
    from mita_seg.utils.environment import describe_environment
    from mita_seg.utils.files import write_json

    runner = build_runner(cfg)
    require_matching_checkpoint(runner, PROG)
    with user_errors(PROG):
        check_sweep(runner.model, args.landmarks, args.topk)
    layer = next(iter(mita_layers(runner.model).values()))
    trained = (layer.landmarks, layer.topk)
    work_dir = Path(cfg.work_dir)
    cells = []
    for cell in sweep_experts(runner.test, runner.model, args.landmarks, args.topk):
        cells.append(cell)
        height, width = cell['landmarks']
        print(f'{height}x{width} landmarks, {cell["topk"]} keys: {cell["mIoU"]:.2f} mIoU')
        write_json(
            work_dir / 'sweep.json',
            {
                'checkpoint': args.checkpoint,
                'trained': {'landmarks': list(trained[0]), 'topk': trained[1]},
                'cells': cells,
                'environment': describe_environment(),
            },
        )
    print(draw_sweep(cells, trained, work_dir / 'sweep.png'))


if __name__ == '__main__':
    main()
