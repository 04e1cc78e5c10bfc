"""Measure what MiTA attention in each layer of an encoder costs and saves, and choose layers.

CONFIG has MiTA attention in all layers that may get it, CHECKPOINT was trained with full attention.
Nothing is trained: each layer is swapped alone, then more and more of them, the cheapest first.
"""

import argparse
from pathlib import Path

from mita_seg.utils.cli import (
    ends_on_full_disk,
    load_evaluation_config,
    parse_runner_args,
    user_errors,
)

PROG = 'choose_layers.py'


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description=__doc__,
        epilog='The same command goes on where an interrupted one was, and chooses again from what '
        'is measured. The written config has all settings; train it with tools/train.py.',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder of the results and of the config')
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        '--budget-ms',
        type=float,
        metavar='MS',
        help="most milliseconds of the encoder's attention in a forward pass of the crop size: as "
        'few layers as keep to it',
    )
    budget.add_argument(
        '--max-drop',
        type=float,
        metavar='DROP',
        help='largest rise of the loss, or drop of mIoU in points: as many layers as keep to it',
    )
    budget.add_argument(
        '--number', type=int, metavar='N', help='so many layers, those that cost least'
    )
    parser.add_argument(
        '--by', choices=('loss', 'mIoU'), default='loss', help='what --max-drop is of (loss)'
    )
    parser.add_argument(
        '--images', type=int, default=32, help='validation images to look at (default: 32)'
    )
    parser.add_argument(
        '--batch-size', type=int, default=1, help='images of the forward pass (default: 1)'
    )
    args = parse_runner_args(parser, argv)
    for option, number in (('--images', args.images), ('--batch-size', args.batch_size)):
        if number < 1:
            parser.error(f'{option} must be at least 1, got {number}')
    for option, number in (('--budget-ms', args.budget_ms), ('--max-drop', args.max_drop)):
        if number is not None and not 0 <= number < float('inf'):
            parser.error(f'{option} must be a number from 0 on, got {number}')
    return args


def prepare_config(args):
    """Read the config and check all; validation data takes the place of test data."""
    cfg = load_evaluation_config(args, PROG)

    from mita_seg.datasets import check_data

    if cfg.get('val_dataloader') is None:
        raise ValueError('the config has no val_dataloader, whose images the layers are judged by')
    check_data(cfg, loaders=('val_dataloader',))
    cfg.test_dataloader = cfg.val_dataloader
    return cfg


def read_known(path, settings):
    """What an earlier command measured.

    Raises:
        ValueError: It was another measurement.
    """
    from mita_seg.utils.files import read_json

    known = read_json(path) or {'settings': settings, 'quality': {}}
    if known['settings'] != settings:
        differing = [name for name in settings if known['settings'].get(name) != settings[name]]
        raise ValueError(
            f'work_dir holds a measurement with another {" and ".join(differing)} '
            f'({str(path)!r}): choose another --work-dir, or remove the file'
        )
    return known


def measure(runner, cfg, args, path, known):
    """Do what is left to measure; adds it to `known` and to the file."""
    import torch

    from mita_seg.comparison.measure import crop_size
    from mita_seg.layer_choice import costs
    from mita_seg.layer_choice.quality import evaluate
    from mita_seg.utils.environment import describe_environment
    from mita_seg.utils.files import write_json
    from mita_seg.utils.progress_bar import progress_bar

    model, dataset = runner.model, runner.test_dataloader.dataset
    layers = costs.encoder_layers(model)
    quality = known['quality']
    with progress_bar(costs.count_evaluations(layers), 'evaluations') as advance:

        def done():
            write_json(path, known)
            advance()

        order = costs.measure_quality(
            model, layers, lambda: evaluate(model, dataset, args.images), quality, done
        )
    if 'times' not in known:
        device = next(model.parameters()).device
        image = torch.randn(args.batch_size, 3, *crop_size(cfg), device=device)
        times = costs.measure_times(model, layers, image, cfg.get('optim_wrapper'))
        known['times'] = {str(layer): each for layer, each in times.items()}
        known['environment'] = describe_environment()
        write_json(path, known)
    return order


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool."""
    with user_errors(PROG):
        args = parse_args(argv)
        cfg = prepare_config(args)

    from mita_seg.checkpoint.matching import require_matching_checkpoint
    from mita_seg.layer_choice.choice import choose, steps, with_layers
    from mita_seg.layer_choice.costs import encoder_layers
    from mita_seg.layer_choice.picture import draw_choice
    from mita_seg.utils.cli import build_runner, load_config
    from mita_seg.utils.files import write_config, write_json

    work_dir = Path(cfg.work_dir)
    path = work_dir / 'choose_layers.json'
    settings = {
        'config': str(args.config),
        'checkpoint': str(args.checkpoint),
        'images': args.images,
        'batch_size': args.batch_size,
        'cfg_options': str(args.cfg_options or {}),
    }
    with user_errors(PROG):
        known = read_known(path, settings)
    runner = build_runner(cfg)
    require_matching_checkpoint(runner, PROG)
    with user_errors(PROG):
        encoder_layers(runner.model)
    runner.load_or_resume()
    order = measure(runner, cfg, args, path, known)
    times = {int(layer): each for layer, each in known['times'].items()}
    found = steps(order, known['quality'], times)
    print_layers(order, known['quality'], times)
    print()
    print_steps(found)
    chosen = None
    budget = {name: getattr(args, name) for name in ('budget_ms', 'max_drop', 'number')}
    if any(value is not None for value in budget.values()):
        with user_errors(PROG):
            chosen = choose(found, **budget, by=args.by)
        written = work_dir / f'{Path(args.config).stem}_chosen.py'
        given = load_config(args.config, args.cfg_options, data_root=args.data_root)
        write_config(written, with_layers(given, chosen['layers']))
        print(f'\nMiTA in layers {", ".join(map(str, chosen["layers"]))}: {written}')
    write_json(path, {**known, 'steps': found, 'chosen': chosen})
    print(path)
    print(draw_choice(known['quality'], found, chosen, work_dir / 'choose_layers.png'))


def print_layers(order, quality, times):
    """Print a table: a row for each layer alone."""
    from mita_seg.layer_choice.costs import join
    from mita_seg.utils.tables import format_table

    full = quality[join([])]
    rows = [['layer', 'loss', 'rise', 'mIoU %', 'drop', 'full ms', 'MiTA ms']]
    for layer in sorted(order):
        now, time = quality[join([layer])], times[layer]
        rows.append(
            [
                str(layer),
                f'{now["loss"]:.4f}',
                f'{now["loss"] - full["loss"]:+.4f}',
                f'{now["mIoU"]:.2f}',
                f'{full["mIoU"] - now["mIoU"]:.2f}',
                f'{time["full"]:.3f}',
                f'{time["mita"]:.3f}',
            ]
        )
    print(format_table(rows))


def print_steps(found):
    """Print a table: a row for each number of layers."""
    from mita_seg.utils.tables import format_table

    rows = [['layers', 'loss', 'rise', 'mIoU %', 'drop', 'ms', 'which']]
    for step in found:
        rows.append(
            [
                str(len(step['layers'])),
                f'{step["loss"]:.4f}',
                f'{step["loss_drop"]:+.4f}',
                f'{step["mIoU"]:.2f}',
                f'{step["mIoU_drop"]:.2f}',
                f'{step["ms"]:.3f}',
                ' '.join(map(str, step['layers'])) or 'none',
            ]
        )
    print(format_table(rows))


if __name__ == '__main__':
    main()
