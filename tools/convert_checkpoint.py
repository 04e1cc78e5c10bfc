"""Convert pretrained weights to the layout of mita_seg or of MMSegmentation."""

import argparse

from mita_seg.utils.cli import ends_on_full_disk, user_errors

PROG = 'convert_checkpoint.py'


def parse_args(argv=None):
    """Parse the command line."""
    from mita_seg.conversion import SOURCES, TARGETS

    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument('src', help='file or URL: .pth, .safetensors or .npz')
    parser.add_argument('dst', help='file to write: .safetensors or .pth')
    parser.add_argument(
        '--from',
        dest='source',
        choices=('auto', *SOURCES),
        default='auto',
        help='whose layout src has; auto tells it by the names (default)',
    )
    parser.add_argument(
        '--to', dest='target', choices=TARGETS, default='mita_seg', help='layout of dst (mita_seg)'
    )
    parser.add_argument(
        '--img-size',
        type=int,
        nargs='+',
        metavar='PIXELS',
        help='resize the position embedding for images of this side, or height and width',
    )
    parser.add_argument(
        '--pretrained-size',
        type=int,
        nargs='+',
        metavar='PIXELS',
        help='images that src was trained with, if they are no squares and src does not say it',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')
    args = parser.parse_args(argv)
    for name in ('img_size', 'pretrained_size'):
        size = getattr(args, name)
        if size and len(size) > 2:
            option = name.replace('_', '-')
            parser.error(f'--{option} takes one or two numbers, got {len(size)}')
        setattr(args, name, size and (size[0], size[-1]))
    return args


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool."""
    args = parse_args(argv)

    from mita_seg.checkpoint import load_checkpoint_safely
    from mita_seg.conversion import convert, report_lines, write_weights
    from mita_seg.conversion.write import ENDINGS
    from mita_seg.utils.files import check_destination

    with user_errors(PROG):
        check_destination(args.dst, ENDINGS, overwrite=args.overwrite)
        checkpoint = load_checkpoint_safely(args.src)
        try:
            conversion = convert(
                checkpoint,
                args.source,
                args.target,
                img_size=args.img_size,
                pretrained_size=args.pretrained_size,
            )
        except ValueError as error:
            raise ValueError(f'checkpoint {args.src!r}: {error}') from error
        meta = checkpoint.get('meta')
        if meta and (args.dst.endswith('.safetensors') or not isinstance(meta, dict)):
            conversion.left_aside.append('meta')
            meta = None
        try:
            write_weights(conversion.weights, args.dst, meta)
        except OSError as error:
            raise OSError(f'destination {args.dst!r}: {error.strerror or error}') from error
    print('\n'.join(report_lines(conversion)))
    print(f'wrote {args.dst}')


if __name__ == '__main__':
    main()
