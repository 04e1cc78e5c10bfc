"""Show how a trained model uses its experts, layer by layer."""

import argparse
from pathlib import Path

from mita_seg.cli import load_evaluation_config, parse_runner_args, user_errors

PROG = 'analyze_routing.py'


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder of routing.json and of the log')
    parser.add_argument(
        '--images', type=int, default=16, help='test images to look at (default: 16)'
    )
    args = parse_runner_args(parser, argv)
    if args.images < 1:
        parser.error(f'--images must be at least 1, got {args.images}')
    return args


def analyze(runner, images):
    """Run the model over images spread evenly over the test set."""
    import torch
    from mmengine.dataset import pseudo_collate

    from mita_seg.analysis.observe import average, observe_routing

    dataset = runner.test_dataloader.dataset
    images = min(images, len(dataset))
    indices = [index * len(dataset) // images for index in range(images)]
    runner.load_or_resume()
    model = runner.model.eval()
    with observe_routing(model) as collected, torch.no_grad():
        for index in indices:
            model.test_step(pseudo_collate([dataset[index]]))
    return average(collected)


def main(argv=None):
    """Run the tool."""
    with user_errors(PROG):
        args = parse_args(argv)
        cfg = load_evaluation_config(args)

    from mita_seg.cli import build_runner, require_matching_checkpoint
    from mita_seg.files import write_json
    from mita_seg.tables import format_table

    runner = build_runner(cfg)
    require_matching_checkpoint(runner, PROG)
    with user_errors(PROG):
        from mita_seg.analysis.observe import mita_layers

        mita_layers(runner.model)
    figures = analyze(runner, args.images)
    names = list(next(iter(figures.values())))
    rows = [['layer', *(f'{name.replace("_", " ")} %' for name in names)]]
    for layer, values in figures.items():
        rows.append([layer, *(f'{100 * values[name]:.1f}' for name in names)])
    print(format_table(rows))
    path = Path(cfg.work_dir) / 'routing.json'
    write_json(path, {'checkpoint': args.checkpoint, 'images': args.images, 'layers': figures})
    print(path)


if __name__ == '__main__':
    main()
