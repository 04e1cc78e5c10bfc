"""Train and evaluate several configs on the same data and compare them in a table and pictures."""

import argparse
import contextlib
import shlex
import sys
import textwrap
from functools import partial
from pathlib import Path

from mita_seg.utils.cli import add_data_root, ends_on_full_disk, prepare_work_dir, say, user_errors
from mita_seg.utils.quiet import import_mmseg_quietly

PROG = 'compare.py'


def parse_args(argv=None):
    """Parse the command line."""
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(
        prog=PROG,
        description=__doc__,
        epilog='An interrupted comparison goes on where it was when the same command is run again. '
        'Other configs or seeds on the same data may be added to a comparison by further commands '
        'with its --work-dir: table, JSON and pictures hold every finished run of the folder.',
    )
    parser.add_argument(
        'configs',
        nargs='+',
        metavar='CONFIG',
        help='config files, and variants of them: CONFIG@LABEL:KEY=VALUE,KEY=VALUE trains CONFIG '
        'with these settings under the name LABEL',
    )
    parser.add_argument('--work-dir', required=True, help='folder of the comparison')
    parser.add_argument(
        '--seeds', nargs='+', type=int, default=[0], help='train with each of them (default: 0)'
    )
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time (default: 1)')
    parser.add_argument(
        '--test-only', nargs='+', metavar='CKPT', help='evaluate these, one a config; train nothing'
    )
    parser.add_argument(
        '--no-timing',
        action='store_true',
        help='leave size and speed out of the results; the same command without this option adds '
        'them later, when nothing else runs',
    )
    parser.add_argument('--amp', action='store_true', help='train in automatic mixed precision')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help="override settings of every config; a variant's own go before them",
    )
    add_data_root(parser)
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f'--jobs must be at least 1, got {args.jobs}')
    return args


def compare(args, runs, command):
    """Do what is left to do and report; the exit status is 1 if a run failed."""
    from mita_seg.comparison.pictures import draw_bars, draw_comparison, draw_tradeoff
    from mita_seg.comparison.results import describe_findings, write_report
    from mita_seg.comparison.runs import read_results
    from mita_seg.comparison.workers import Failure, measure_runs, run_workers

    left = [run for run in runs if not run.is_finished()]
    if len(left) < len(runs):
        print(f'{len(runs) - len(left)} of {len(runs)} runs are finished already')
    failures = run_workers([run for run in left if not run.is_evaluated()], args.jobs)
    failed = bool(failures)
    evaluated = [run for run in left if run.is_evaluated()]
    if evaluated and args.no_timing:
        print(f'{len(evaluated)} runs wait for their timing')
    elif evaluated:
        print('measuring size and speed, one model at a time')
        try:
            measure_runs(evaluated, args.jobs, train=not args.test_only)
        except Failure as failure:
            print(f'{PROG}: measuring failed:\n{failure}', file=sys.stderr)
            failed = True
    for run, log in failures.items():
        print(f'\n{PROG}: {run.name} seed {run.seed} failed:\n{log}', file=sys.stderr)
        print(f'(all of it: {run.folder / "log.txt"})', file=sys.stderr)

    work_dir = Path(args.work_dir)
    results = read_results(runs, work_dir)
    if results:
        findings = describe_findings(results)
        print(f'\n{write_report(work_dir, results, command, findings)}\n')
        for draw in (draw_comparison, draw_bars, draw_tradeoff):
            picture = draw(work_dir, results)
            if picture:
                print(picture)
        if findings:
            print(f'\n{textwrap.fill(findings, 100)}')
    return 1 if failed else 0


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool."""
    with user_errors(PROG):
        args = parse_args(argv)
    command = shlex.join([PROG, *(sys.argv[1:] if argv is None else argv)])
    with contextlib.ExitStack() as held:
        with user_errors(PROG):
            import_mmseg_quietly()
            from mita_seg.comparison.runs import make_runs
            from mita_seg.utils.files import exclusive

            prepare_work_dir(args.work_dir)
            held.enter_context(exclusive(args.work_dir))
            runs = make_runs(
                args.configs,
                args.work_dir,
                args.seeds,
                args.test_only,
                args.cfg_options,
                args.amp,
                say=partial(say, PROG),
                data_root=args.data_root,
            )
        return compare(args, runs, command)


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print(f'\n{PROG}: interrupted; run the same command again to go on', file=sys.stderr)
        sys.exit(130)
