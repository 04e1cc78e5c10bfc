"""Check a download of ADE20K (ADEChallengeData2016)."""

import argparse
import sys
from pathlib import Path

from mita_seg.utils.cli import ends_on_full_disk, user_errors
from mita_seg.utils.quiet import import_mmseg_quietly

PROG = 'prepare_ade20k.py'
LINK = 'data/ade/ADEChallengeData2016'
SOURCE = """\
Get ADEChallengeData2016.zip from the MIT Scene Parsing Benchmark,
http://sceneparsing.csail.mit.edu (section "Download"; its terms of use apply), unpack it and run
    python tools/prepare_ade20k.py FOLDER/ADEChallengeData2016"""


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument('root', nargs='?', default=LINK, help=f'the folder (default: {LINK})')
    parser.add_argument('--quick', action='store_true', help='compare file names, decode nothing')
    parser.add_argument('--workers', type=int, help='processes (default: one per core)')
    parser.add_argument('--show', type=int, default=10, help='files listed for each problem')
    return parser.parse_args(argv)


def show_progress(pairs, total):
    """A progress bar over the pairs."""
    from mita_seg.utils.progress_bar import progress_bar

    with progress_bar(total, 'pairs') as advance:
        for pair in pairs:
            yield pair
            advance()


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool; the exit status is 0 if all is well, 1 if not."""
    args = parse_args(argv)
    root = Path(args.root)
    splits = [
        root / kind / s for kind in ('images', 'annotations') for s in ('training', 'validation')
    ]
    missing = [str(folder) for folder in splits if not folder.is_dir()]
    if missing:
        print(f'{PROG}: missing: {", ".join(missing)}\n{SOURCE}', file=sys.stderr)
        return 1

    with user_errors(PROG):
        import_mmseg_quietly()
        from dataset_converters.ade20k import ORIENTED, check_ade20k

    problems = check_ade20k(root, args.quick, args.workers, show_progress)
    for what, files in problems.items():
        print(f'{what}: {len(files)}' if files else what)
        for file in files[: args.show]:
            print(f'    {file}')
        if len(files) > args.show:
            print(f'    ... and {len(files) - args.show} more (--show {len(files)})')
    if problems.keys() - {ORIENTED}:
        return 1
    print(f'{root}: complete' + (' (files not decoded: --quick)' if args.quick else ''))
    if root.resolve() != Path(LINK).resolve():
        print(f'The configs look in {LINK}; to link it there:')
        print(f'    mkdir -p {Path(LINK).parent} && ln -s {root.resolve()} {LINK}')
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
