"""Compare what full and MiTA attention cost as images grow: FLOPs, parameters, activations."""

import argparse
from pathlib import Path

from mita_seg.utils.cli import (
    add_config_options,
    ends_on_full_disk,
    load_config,
    prepare_work_dir,
    user_errors,
)

PROG = 'complexity.py'


def image_size(text):
    """A size such as 512, or 512x1024: height and width."""
    height, _, width = text.partition('x')
    size = int(height), int(width or height)
    if min(size) < 1:
        raise ValueError
    return size


image_size.__name__ = 'size'  # which argparse puts into its message


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument('config', help='config file, of full or of MiTA attention')
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=image_size,
        default=[(512, 512), (1024, 1024), (2048, 2048)],
        metavar='PIXELS',
        help='sizes of the image: N, or HEIGHTxWIDTH (default: 512 1024 2048)',
    )
    parser.add_argument(
        '--landmarks',
        nargs=2,
        type=int,
        metavar=('MH', 'MW'),
        help="landmark grid of MiTA in every layer; with --topk, in place of the config's",
    )
    parser.add_argument('--topk', type=int, metavar='K', help='keys per expert; with --landmarks')
    parser.add_argument('--out', default='work_dirs/complexity', help='folder of table and plot')
    parser.add_argument(
        '--device',
        choices=('cpu', 'cuda'),
        help='where activations are measured (default: a GPU if there is one)',
    )
    add_config_options(parser)
    args = parser.parse_args(argv)
    if (args.landmarks is None) != (args.topk is None):
        parser.error('--landmarks and --topk go together')
    return args


def find_device(asked):
    """The device that was asked for, or a GPU if there is one."""
    import torch

    there = torch.cuda.is_available()
    if asked == 'cuda' and not there:
        raise ValueError("--device must be 'cpu' where torch finds no CUDA device, got 'cuda'")
    return asked or ('cuda' if there else 'cpu')


def measure_all(models, sizes):
    """Measure both sides at every size."""
    from mita_seg.complexity.measure import measure
    from mita_seg.utils.progress_bar import progress_bar

    rows = []
    with progress_bar(len(sizes) * len(models), 'models and sizes') as advance:
        for size in sizes:
            row = {'size': size}
            for side, model in models.items():
                row[side] = measure(model, size)
                advance()
            rows.append(row)
    return rows


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool."""
    with user_errors(PROG):
        args = parse_args(argv)
        cfg = load_config(args.config, args.cfg_options)
        prepare_work_dir(args.out, '--out')

        from mita_seg.complexity.measure import build_sides

        device = find_device(args.device)
        mita = args.landmarks and {'landmarks': tuple(args.landmarks), 'topk': args.topk}
        models = build_sides(cfg, mita)

    from mita_seg.complexity.cost_report import draw_complexity, make_table
    from mita_seg.utils.environment import describe_environment
    from mita_seg.utils.files import replacing, write_json

    models = {side: model.to(device) for side, model in models.items()}
    rows = measure_all(models, args.sizes)
    out, table = Path(args.out), make_table(rows)
    print(table)
    environment = describe_environment(device)
    results = {'config': args.config, 'environment': environment, 'rows': rows}
    write_json(out / 'complexity.json', results)
    with replacing(out / 'complexity.md') as file:
        file.write(f'{table}\n')
    title = f'{Path(args.config).stem}\nactivations measured on {environment["device"]}'
    print(draw_complexity(rows, title, out / 'complexity.png'))


if __name__ == '__main__':
    main()
