"""Draw what the experts of a trained model do on images, as PNG files and one HTML page."""

import argparse
import sys
from pathlib import Path

from mita_seg.cli import add_config_options, load_config, prepare_work_dir, say, user_errors

PROG = 'visualize_routing.py'


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument('config', help='config file of a model with MiTA attention')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('images', nargs='+', help='image files; they need no labels')
    parser.add_argument(
        '--out', default='routing', help='folder of pictures and page (default: routing)'
    )
    parser.add_argument(
        '--layers',
        nargs='+',
        metavar='LAYER',
        help='layers to show: indices, negative ones from the end, or parts of names such as '
        'backbone (default: all)',
    )
    parser.add_argument(
        '--heads', nargs='+', type=int, metavar='HEAD', help='heads to show (default: all)'
    )
    parser.add_argument(
        '--no-landmarks',
        action='store_true',
        help='leave out the picture of every layer and head with the keys of each landmark',
    )
    parser.add_argument(
        '--max-side',
        type=int,
        default=1024,
        metavar='PIXELS',
        help='shrink images whose longer side has more pixels (default: 1024)',
    )
    parser.add_argument('--device', default='cpu', help='where the model runs (default: cpu)')
    add_config_options(parser)
    args = parser.parse_args(argv)
    if args.max_side < 1:
        parser.error(f'--max-side must be at least 1, got {args.max_side}')
    return args


def say_if_trained_otherwise(checkpoint, cfg):
    """Say so where the model was trained with another attention than is shown."""
    from mita_seg.checkpoint import load_checkpoint_safely
    from mita_seg.trained_attention import describe_other_attention

    difference = describe_other_attention(load_checkpoint_safely(checkpoint), cfg)
    if difference:
        say(PROG, difference)


def draw_all(view, images):
    """Draw every image; what cannot be read is named and left out."""
    from mita_seg.engine.save_predictions import distinct_names
    from mita_seg.progress_bar import progress_bar

    names = distinct_names(images)
    drawn = []
    with progress_bar(len(names), 'images') as advance:
        for path, name in names.items():
            try:
                image, inputs = view.looker.read(path)
            except (ValueError, OSError) as error:
                print(f'{PROG}: {" ".join(str(error).split())}', file=sys.stderr)
            else:
                drawn.append(view.draw(name, image, inputs))
            advance()
    return drawn, len(names) - len(drawn)


def main(argv=None):
    """Run the tool; the exit status is 1 if an image was left out."""
    with user_errors(PROG):
        args = parse_args(argv)
        cfg = load_config(args.config, args.cfg_options)
        prepare_work_dir(args.out, '--out')
        say_if_trained_otherwise(args.checkpoint, cfg)

        from mita_seg.visualization.inputs import load_looker
        from mita_seg.visualization.page import write_page
        from mita_seg.visualization.routing_view import RoutingView, choose_heads, choose_layers

        looker = load_looker(cfg, args.checkpoint, args.device, args.max_side)
        layers = choose_layers(looker.model, args.layers)
        heads = choose_heads(looker.model, layers, args.heads)
    out = Path(args.out)
    view = RoutingView(looker, layers, heads, out, landmarks=not args.no_landmarks)
    drawn, left_out = draw_all(view, args.images)
    if drawn:
        title = f'{Path(args.config).stem}, {Path(args.checkpoint).name}'
        print(write_page(out / 'index.html', title, drawn))
    return 1 if left_out else 0


if __name__ == '__main__':
    sys.exit(main())
