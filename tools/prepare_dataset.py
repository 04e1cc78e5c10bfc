"""Make a folder of images and masks ready for training."""

import argparse
import sys
from pathlib import Path

from mita_seg.utils.cli import ends_on_full_disk, prepare_work_dir, user_errors
from mita_seg.utils.quiet import import_mmseg_quietly

PROG = 'prepare_dataset.py'
FORMATS = """\
formats: masks whose values are the classes (PNG, with or without a palette), masks of colours with
a class list, annotations of COCO (JSON, polygons or run lengths) or of LabelMe (a JSON each image).
A class list is classes.txt or classes.csv in the folder, "name" or "name r g b" a line, or JSON."""


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description=__doc__,
        epilog=FORMATS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('folder', help='the images and masks')
    parser.add_argument('--out', help='folder to write (default: data/NAME of the folder)')
    parser.add_argument('--classes', help='file of the classes')
    parser.add_argument('--images', help='folder of the images in FOLDER, with --masks')
    parser.add_argument('--masks', help='folder of the masks in FOLDER, with --images')
    parser.add_argument(
        '--ignore',
        nargs='+',
        default=(),
        metavar='CLASS',
        help='classes or values not to be learnt',
    )
    parser.add_argument(
        '--ignore-unknown', action='store_true', help='leave values that are no class out'
    )
    parser.add_argument(
        '--unlabelled',
        choices=['background', 'ignore'],
        default='background',
        help='what pixels without an outline are (COCO, LabelMe)',
    )
    parser.add_argument('--validation', type=float, default=0.2, help='share of the images')
    parser.add_argument(
        '--group', metavar='REGEX', help='what in a name tells its group; "none": no groups'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the split')
    parser.add_argument('--iters', type=int, default=4000, help='iterations in the configs')
    parser.add_argument(
        '--pretrained', help='weights the configs start from; "none" (default: ImageNet-21k ViT-T)'
    )
    return parser.parse_args(argv)


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool; the exit status is 0 if all was used, 1 if files were left out."""
    args = parse_args(argv)
    out = Path(args.out or Path('data') / Path(args.folder).resolve().name)
    with user_errors(PROG):
        import_mmseg_quietly()
        from dataset_converters.own_data import Options, examine, write
        from mita_seg.utils.progress_bar import progress_bar

        options = Options(
            classes=args.classes,
            images=args.images,
            masks=args.masks,
            ignored=tuple(args.ignore),
            ignore_unknown=args.ignore_unknown,
            unlabelled=args.unlabelled,
            validation=args.validation,
            group=args.group,
            seed=args.seed,
            iters=args.iters,
        )
        if args.pretrained:
            options.pretrained = None if args.pretrained == 'none' else args.pretrained
        prepare_work_dir(out.parent, '--out')
        plan = examine(args.folder, out, options, progress=progress_bar)

    write(plan, progress=progress_bar)
    return 1 if plan.problems else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
