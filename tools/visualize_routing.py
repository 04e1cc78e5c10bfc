"""Draw what the experts of a trained model do on images, as PNG files and one HTML page."""

import argparse
import sys
from pathlib import Path

from mita_seg.utils.cli import add_config_options, ends_on_full_disk, prepare_work_dir, user_errors
from mita_seg.utils.quiet import import_mmseg_quietly

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
    parser.add_argument('--device', help='where the model runs (default: a GPU if there is one)')
    add_config_options(parser)
    args = parser.parse_args(argv)
    if args.max_side < 1:
        parser.error(f'--max-side must be at least 1, got {args.max_side}')
    return args


def draw_all(view, images):
    """Draw every image; what cannot be read is named and left out."""
    from mita_seg.utils.distinct_names import distinct_names
    from mita_seg.utils.progress_bar import progress_bar

    names = distinct_names(images)
    drawn = []
    with progress_bar(len(names), 'images') as advance:
        for path, name in names.items():
            try:
                image, inputs = view.images.read(path)
            except (ValueError, OSError) as error:
                print(f'{PROG}: {" ".join(str(error).split())}', file=sys.stderr)
            else:
                drawn.append(view.draw(name, image, inputs))
            advance()
    return drawn, len(names) - len(drawn)


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool; the exit status is 1 if an image was left out."""
    with user_errors(PROG):
        args = parse_args(argv)
        prepare_work_dir(args.out, '--out')
        import_mmseg_quietly()

        from mita_seg.inference import load_segmentor

        segmentor = load_segmentor(
            args.config, args.checkpoint, args.device, cfg_options=args.cfg_options
        )

        from mita_seg.visualization.inputs import WholeImages
        from mita_seg.visualization.page import write_page
        from mita_seg.visualization.routing_view import RoutingView, choose_heads, choose_layers

        layers = choose_layers(segmentor.model, args.layers)
        heads = choose_heads(segmentor.model, layers, args.heads)
    out = Path(args.out)
    images = WholeImages(segmentor, args.max_side)
    view = RoutingView(images, layers, heads, out, landmarks=not args.no_landmarks)
    drawn, left_out = draw_all(view, args.images)
    if drawn:
        title = f'{Path(args.config).stem}, {Path(args.checkpoint).name}'
        print(write_page(out / 'index.html', title, drawn))
    return 1 if left_out else 0


if __name__ == '__main__':
    sys.exit(main())
