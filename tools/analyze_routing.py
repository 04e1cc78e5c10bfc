"""Show how a trained model uses its experts, and where gradients go, layer by layer."""

import argparse
from functools import partial
from pathlib import Path

from mita_seg.utils.cli import (
    ends_on_full_disk,
    load_evaluation_config,
    parse_runner_args,
    user_errors,
)
from mita_seg.utils.spread import spread

PROG = 'analyze_routing.py'


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder of routing.json, recall.png and the log')
    parser.add_argument(
        '--images', type=int, default=16, help='test images to look at (default: 16)'
    )
    parser.add_argument(
        '--as-full',
        action='store_true',
        help='for a model that was trained with full attention, with the config of what is to '
        'replace it: full attention computes the outputs, and the recall says what MiTA attention '
        'would keep; no other figures',
    )
    args = parse_runner_args(parser, argv)
    if args.images < 1:
        parser.error(f'--images must be at least 1, got {args.images}')
    return args


def run_images(runner, images, observing):
    """Run the model over images spread evenly over the test set; what `observing` collects."""
    import torch
    from mmengine.dataset import pseudo_collate

    dataset = runner.test_dataloader.dataset
    model = runner.model.eval()
    with observing(model) as collected, torch.no_grad():
        for index in spread(len(dataset), images):
            model.test_step(pseudo_collate([dataset[index]]))
    return collected


def analyze_recall(runner, images, as_full):
    """What MiTA attention keeps of full attention: figures by layer, a number for each head."""
    from mita_seg.analysis import mean_recall, observe_attention_recall

    observing = partial(observe_attention_recall, as_full=as_full)
    collected = run_images(runner, images, observing)
    return {layer: mean_recall(passes) for layer, passes in collected.items()}


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


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool."""
    with user_errors(PROG):
        args = parse_args(argv)
        cfg = load_evaluation_config(args, PROG)

    from mita_seg.analysis.observe import average, mita_layers
    from mita_seg.analysis.routing import observe_routing
    from mita_seg.checkpoint.matching import require_matching_checkpoint
    from mita_seg.utils.cli import build_runner
    from mita_seg.utils.files import write_json
    from mita_seg.visualization.recall_curves import draw_recall

    runner = build_runner(cfg)
    require_matching_checkpoint(runner, PROG)
    with user_errors(PROG):
        mita_layers(runner.model)
    runner.load_or_resume()
    report = {'checkpoint': args.checkpoint, 'images': args.images}
    if not args.as_full:
        report['layers'] = average(run_images(runner, args.images, observe_routing))
        report['gradients'] = analyze_gradients(runner, args.images)
        print_percent(report['layers'], list(next(iter(report['layers'].values()))))
        print('\ngradients through landmarks and shared expert, of the norms of both ways:\n')
        shares = ['query_pooled_share', 'key_shared_share', 'value_shared_share']
        print_percent(report['gradients'], shares)
    report['recall'] = analyze_recall(runner, args.images, args.as_full)
    print('\nof the mass of full attention (shared: of MiTA attention), means of the heads:\n')
    print_recall(report['recall'])
    work_dir = Path(cfg.work_dir)
    write_json(work_dir / 'routing.json', report)
    print(work_dir / 'routing.json')
    print(draw_recall(report['recall'], work_dir / 'recall.png'))


def print_percent(figures, names):
    """Print a table: a row for each layer, a column for each name."""
    from mita_seg.utils.tables import format_table

    rows = [['layer', *(f'{name.replace("_", " ")} %' for name in names)]]
    for layer, values in figures.items():
        rows.append([layer, *(f'{100 * values[name]:.1f}' for name in names)])
    print(format_table(rows))


def print_recall(recall):
    """Print a table: a row for each layer; the norm of common keys is a ratio."""
    from statistics import fmean

    means = {
        layer: {name: fmean(heads) for name, heads in figures.items()}
        for layer, figures in recall.items()
    }
    print_percent(
        means, ['routed', 'blind', 'shared', 'overlap', 'common', 'common_keys', 'common_norm']
    )


if __name__ == '__main__':
    main()
