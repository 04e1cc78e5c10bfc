"""Predict images and videos: label maps, overlays and a contact sheet."""

import argparse
import sys

from mita_seg.utils.cli import add_config_options, ends_on_full_disk, prepare_work_dir, user_errors
from mita_seg.utils.quiet import import_mmseg_quietly

PROG = 'predict.py'


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('inputs', nargs='+', help='images, videos, folders of them, globs')
    parser.add_argument('--out', required=True, help='folder for all that is written')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if there is one)')
    parser.add_argument('--tta', action='store_true', help='multi-scale and flip testing')
    parser.add_argument(
        '--batch-size', type=int, default=4, help='images of one size, or sliding windows, at once'
    )
    add_config_options(parser)
    return parser.parse_args(argv)


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool; the exit status is 0 if all is well, 1 if files were skipped."""
    with user_errors(PROG):
        args = parse_args(argv)
        import_mmseg_quietly()
        from mita_seg.inference import load_segmentor
        from mita_seg.inference.predict import predict_files
        from mita_seg.inference.sources import count_frames, find_sources, is_video
        from mita_seg.utils.progress_bar import progress_bar

        paths = find_sources(args.inputs, args.out)
        prepare_work_dir(args.out, '--out')
        segmentor = load_segmentor(
            args.config,
            args.checkpoint,
            args.device,
            tta=args.tta,
            batch_size=args.batch_size,
            cfg_options=args.cfg_options,
        )

    bad = []

    def skip(path, error):
        bad.append(path)
        reason = ' '.join(str(error).split())
        named = reason if path in reason else f'{path}: {reason}'
        print(f'{PROG}: skipped: {named}', file=sys.stderr)

    total = sum(max(1, count_frames(path)) if is_video(path) else 1 for path in paths)
    with progress_bar(total, 'images') as advance:
        turned = predict_files(segmentor, paths, args.out, skip, advance)
    if turned:
        print(
            f'{PROG}: {len(turned)} images with an EXIF orientation, such as {turned[0]!r}, were '
            'read as their pixels are stored'
        )
    print(f'{PROG}: {len(paths) - len(bad)} of {len(paths)} files predicted, in {args.out}')
    return 1 if bad else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
