"""Find the offset of the shared expert with which each layer is nearest to full attention.

CONFIG has MiTA attention; the weights are those of full attention: CHECKPOINT, or what the config
starts from. Nothing is trained. The config that is written has the offsets of the encoder.
"""

import argparse
from pathlib import Path

from mita_seg.utils.cli import ends_on_full_disk, parse_runner_args, user_errors
from mita_seg.utils.spread import spread

PROG = 'calibrate_offsets.py'


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='checkpoint file (default: the weights the config starts from)',
    )
    parser.add_argument('--work-dir', help='folder of the results and of the config')
    parser.add_argument(
        '--images', type=int, default=16, help='validation images to look at (default: 16)'
    )
    args = parse_runner_args(parser, argv)
    if args.images < 1:
        parser.error(f'--images must be at least 1, got {args.images}')
    return args


def prepare_config(args):
    """Read the config and check data and weights; validation data takes the place of test data."""
    from mita_seg.utils.cli import (
        check_initial_weights,
        leave_out_pretrained,
        load_runner_config,
        prepare_work_dir,
    )

    cfg = load_runner_config(args)
    prepare_work_dir(cfg.work_dir)

    from mita_seg.datasets import check_data

    if cfg.get('val_dataloader') is None:
        raise ValueError('the config has no val_dataloader, whose images are looked at')
    check_data(cfg, loaders=('val_dataloader',))
    cfg.test_dataloader, cfg.resume = cfg.val_dataloader, False
    if args.checkpoint:
        cfg.load_from = args.checkpoint
    check_initial_weights(cfg)
    if cfg.get('load_from'):
        leave_out_pretrained(cfg)
    return cfg


def calibrate(runner, images):
    """The best offset of every layer of the encoder."""
    import torch
    from mmengine.dataset import pseudo_collate

    from mita_seg.finetuning.calibration import best_offsets, observe_offsets

    dataset = runner.test_dataloader.dataset
    model = runner.model.eval()
    with observe_offsets(model.backbone) as collected, torch.no_grad():
        for index in spread(len(dataset), images):
            model.test_step(pseudo_collate([dataset[index]]))
    return best_offsets(collected)


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool."""
    with user_errors(PROG):
        args = parse_args(argv)
        cfg = prepare_config(args)

    from mita_seg.checkpoint.matching import require_matching_checkpoint
    from mita_seg.finetuning.calibration import observe_offsets
    from mita_seg.layer_choice.choice import with_options
    from mita_seg.layer_choice.costs import encoder_layers
    from mita_seg.utils.cli import build_runner, load_config
    from mita_seg.utils.files import write_config, write_json

    runner = build_runner(cfg)
    require_matching_checkpoint(runner, PROG, backbone_only=True)
    with user_errors(PROG):
        layers = encoder_layers(runner.model)
        observe_offsets(runner.model.backbone)
    runner.model.init_weights()
    runner.load_or_resume()
    found = calibrate(runner, args.images)
    by_layer = {
        number: found[name.removeprefix('backbone.')]
        for number, name in layers.items()
        if name.removeprefix('backbone.') in found
    }
    print_offsets(by_layer)
    work_dir = Path(cfg.work_dir)
    write_json(
        work_dir / 'offsets.json',
        {
            'config': args.config,
            'checkpoint': args.checkpoint,
            'images': args.images,
            'layers': {number: each._asdict() for number, each in by_layer.items()},
        },
    )
    print(work_dir / 'offsets.json')
    given = load_config(args.config, args.cfg_options, data_root=args.data_root)
    options = {number: {'shared_offset': each.offset} for number, each in by_layer.items()}
    written = work_dir / f'{Path(args.config).stem}_calibrated.py'
    write_config(written, with_options(given, options))
    print(written)


def print_offsets(by_layer):
    """Print a table: a row for each layer."""
    from mita_seg.utils.tables import format_table

    rows = [['layer', 'offset', 'error %', 'error before %']]
    for number, each in by_layer.items():
        rows.append(
            [
                str(number),
                f'{each.offset:+.1f}',
                f'{100 * each.error:.1f}',
                f'{100 * each.error_before:.1f}',
            ]
        )
    print(format_table(rows))


if __name__ == '__main__':
    main()
