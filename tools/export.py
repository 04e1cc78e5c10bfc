"""Write a trained segmentor to a file that runs without this package.

The file holds the whole model in plain operations: the normalisation of the config (images are
float32 [batch, channels, height, width] with values 0 to 255), encoder, head and enlarging to the
size of the image. Any batch goes in. A model that is evaluated in sliding windows is exported for
one window: cut images as test_cfg of the config says, and average the scores. Before the file is
kept it runs on several batches and sizes and is compared with the model.
"""

import argparse

from mita_seg.utils.cli import add_config_options, ends_on_full_disk, load_config, say, user_errors

PROG = 'export.py'


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--format',
        choices=('onnx', 'torch-export'),
        default='onnx',
        help="onnx (default), or what torch.export.load reads; onnx needs the extra 'export'",
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='size of the images, pixels (default: the crops of the config)',
    )
    sizes.add_argument(
        '--dynamic',
        action='store_true',
        help='images of any size from two patches a side on, in whole patches: pad others',
    )
    parser.add_argument(
        '--labels', action='store_true', help='labels of the pixels in place of their scores'
    )
    parser.add_argument('--out', required=True, metavar='FILE', help='ends in .onnx or .pt2')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')
    add_config_options(parser)
    return parser.parse_args(argv)


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool."""
    with user_errors(PROG):
        args = parse_args(argv)
        cfg = load_config(args.config, args.cfg_options)

        from mita_seg.export import FORMATS, check_packages, export_segmentor
        from mita_seg.utils.files import check_destination

        check_packages(args.format)
        check_destination(args.out, (FORMATS[args.format].ending,), overwrite=args.overwrite)

        say(PROG, 'exporting, which takes a minute or more for a large model')
        export = export_segmentor(
            cfg,
            args.checkpoint,
            args.out,
            format=args.format,
            size=args.size,
            dynamic=args.dynamic,
            labels=args.labels,
        )
    tried = ', '.join('x'.join(map(str, shape)) for shape in export.tried)
    say(PROG, f'wrote {args.out}; on images {tried} {report(export.comparison, args.labels)}')


def report(comparison, labels):
    """What the comparison found, in words."""
    agree, count, differ = comparison
    if labels:
        said = f'{100 * agree:.4f} % of the labels or more are those of the model'
        more = f'down to {100 * differ:.4f} %' if count else ''
    else:
        said = f'scores differ by {agree:.1e} at most from those of the model'
        more = f'up to {differ:.1e}' if count else ''
    if count:
        said += (
            f'; {count} further images differ by more, {more}: where MiTA chooses between nearly '
            'equal keys or experts, rounding decides'
        )
    return said


if __name__ == '__main__':
    main()
