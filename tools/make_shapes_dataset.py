"""Draw a small segmentation data set in ADE20K's layout and label encoding."""

import argparse

from mita_seg.utils.cli import ends_on_full_disk, user_errors
from mita_seg.utils.quiet import import_mmseg_quietly

PROG = 'make_shapes_dataset.py'


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument(
        'out', help='folder to write; left alone if it holds these settings already'
    )
    parser.add_argument('--num-train', type=int, default=800, help='training pairs')
    parser.add_argument('--num-val', type=int, default=60, help='validation pairs')
    parser.add_argument('--size', type=int, default=128, help='height and width in pixels')
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args(argv)


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool."""
    args = parse_args(argv)
    with user_errors(PROG):
        import_mmseg_quietly()
        from dataset_converters.shapes import write_shapes
        from mita_seg.utils.progress_bar import progress_bar

        with progress_bar(args.num_train + args.num_val, 'images') as advance:
            written = write_shapes(
                args.out, args.num_train, args.num_val, args.size, args.seed, on_image=advance
            )
    state = 'drawn' if written else 'already there'
    print(f'{args.num_train} training and {args.num_val} validation pairs in {args.out}: {state}')


if __name__ == '__main__':
    main()
