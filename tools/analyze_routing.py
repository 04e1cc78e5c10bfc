"""Show how a trained model uses its experts, and where gradients go, layer by layer."""

import argparse
from pathlib import Path

from mita_seg.utils.cli import load_evaluation_config, parse_runner_args, user_errors

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

    from mita_seg.analysis.observe import average
    from mita_seg.analysis.routing import observe_routing

    dataset = runner.test_dataloader.dataset
    runner.load_or_resume()
    model = runner.model.eval()
    with observe_routing(model) as collected, torch.no_grad():
        for index in spread(len(dataset), images):
            model.test_step(pseudo_collate([dataset[index]]))
    return average(collected)


def analyze_gradients(runner, images):
    """The same for the gradients of the loss, with the labels of the images."""
    from mmengine.dataset import pseudo_collate

    from mita_seg.analysis.gradients import observe_gradients
    from mita_seg.analysis.observe import average

    dataset = runner.test_dataloader.dataset
    model = runner.model.eval()
    with observe_gradients(model) as collected:
        for index in spread(len(dataset), images):
            data = model.data_preprocessor(pseudo_collate([dataset[index]]))
            # The whole image at once, whatever test_cfg says.
            logits = model(data['inputs'], mode='tensor')
            losses = model.decode_head.loss_by_feat(logits, data['data_samples'])
            model.zero_grad()
            model.parse_losses(losses)[0].backward()
    return average(collected)


def spread(size, count):
    """Indices of `count` entries, or of all, spread evenly over `size`."""
    count = min(count, size)
    return [index * size // count for index in range(count)]


def main(argv=None):
    """Run the tool."""
    with user_errors(PROG):
        args = parse_args(argv)
        cfg = load_evaluation_config(args, PROG)

    from mita_seg.checkpoint.matching import require_matching_checkpoint
    from mita_seg.utils.cli import build_runner
    from mita_seg.utils.files import write_json

    runner = build_runner(cfg)
    require_matching_checkpoint(runner, PROG)
    with user_errors(PROG):
        from mita_seg.analysis.observe import mita_layers

        mita_layers(runner.model)
    figures = analyze(runner, args.images)
    gradients = analyze_gradients(runner, args.images)
    print_percent(figures, list(next(iter(figures.values()))))
    print('\ngradients through landmarks and shared expert, of the norms of both ways:\n')
    print_percent(gradients, ['query_pooled_share', 'key_shared_share', 'value_shared_share'])
    path = Path(cfg.work_dir) / 'routing.json'
    report = {'checkpoint': args.checkpoint, 'images': args.images, 'layers': figures}
    write_json(path, {**report, 'gradients': gradients})
    print(path)


def print_percent(figures, names):
    """Print a table: a row for each layer, a column for each name."""
    from mita_seg.utils.tables import format_table

    rows = [['layer', *(f'{name.replace("_", " ")} %' for name in names)]]
    for layer, values in figures.items():
        rows.append([layer, *(f'{100 * values[name]:.1f}' for name in names)])
    print(format_table(rows))


if __name__ == '__main__':
    main()
