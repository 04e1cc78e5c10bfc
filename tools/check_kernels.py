"""Compile the Triton kernels for GPUs that need not be there, and say what they take."""

import argparse
import os
import sys
from pathlib import Path

from mita_seg.utils.cli import ends_on_full_disk, user_errors

PROG = 'check_kernels.py'


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog=PROG, description=f'{__doc__} The exit status is 1 if one does not compile or fit.'
    )
    parser.add_argument(
        '--arch',
        nargs='+',
        type=int,
        metavar='N',
        help='compute capabilities, such as 80 for an A100 (default: all that are known)',
    )
    parser.add_argument('--json', metavar='FILE', help='write the findings to this file')
    parser.add_argument(
        '--quick', action='store_true', help='every kernel once for each architecture'
    )
    parser.add_argument(
        '--processes', type=int, help='that compile at a time (default: one a processor)'
    )
    parser.add_argument(
        '--here',
        action='store_true',
        help='only say what this machine would use and why, for an issue report',
    )
    return parser.parse_args(argv)


def check_args(args):
    """Raise ValueError or OSError for what can't be done."""
    from mita_seg.ops.triton.gpu import ARCHITECTURES

    for architecture in args.arch or ():
        if architecture not in ARCHITECTURES:
            known = ', '.join(map(str, ARCHITECTURES))
            raise ValueError(f'--arch must be of {known}; got {architecture}')
    if args.processes is not None and args.processes < 1:
        raise ValueError(f'--processes must be at least 1, got {args.processes}')
    if args.json:
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        with open(args.json, 'a'):
            pass
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise ValueError('compiling the kernels needs Triton: pip install triton') from error
    args.arch = args.arch or list(ARCHITECTURES)


def show_progress(done, jobs):
    """One line on stderr, if someone looks at it."""
    if sys.stderr.isatty():
        end = '\n' if done == jobs else ''
        print(f'\r{done} of {jobs} kernels compiled', end=end, file=sys.stderr, flush=True)


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool."""
    # Kernels that are to be interpreted can't be compiled; Triton reads this when it is imported.
    os.environ.pop('TRITON_INTERPRET', None)
    with user_errors(PROG):
        args = parse_args(argv)
        if args.here:
            from mita_seg.kernel_check.here import describe_here

            print(describe_here())
            return 0
        check_args(args)

    from mita_seg.kernel_check.cases import (
        CASES,
        CLUSTER_CASES,
        LOSS_CASES,
        REPRESENTATIVE,
        REPRESENTATIVE_CLUSTERS,
        REPRESENTATIVE_LOSS,
    )
    from mita_seg.kernel_check.check import check_kernels
    from mita_seg.kernel_check.finding_tables import format_check
    from mita_seg.utils.files import write_json

    cases = (*CASES, *LOSS_CASES, *CLUSTER_CASES)
    if args.quick:
        cases = (*REPRESENTATIVE, *REPRESENTATIVE_LOSS, *REPRESENTATIVE_CLUSTERS)
    check = check_kernels(
        args.arch,
        cases,
        first_of_each=args.quick,
        processes=args.processes,
        progress=show_progress,
    )
    print(format_check(check))
    if args.json:
        write_json(args.json, check.as_json())
    return 1 if check.failures else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
