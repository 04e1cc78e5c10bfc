"""Time attention operators, their kernels, whole models and training loops."""

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path

# What is measured is this checkout, whatever else is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mita_seg.utils.cli import ends_on_full_disk, prepare_work_dir, user_errors

PROG = 'benchmark.py'
ROOT = Path(__file__).resolve().parents[1]
WHAT = {
    'operator': 'attention alone, full against MiTA',
    'kernels': 'each kernel of MiTA attention against its bandwidth bound (CUDA)',
    'model': 'whole segmentors, full against MiTA',
    'training': 'the training loops of CONFIGs, data and logging included',
    'all': 'the first three',
}
SECTIONS = ('operator', 'kernels', 'model', 'training')  # of the results
ROUNDS, QUICK_ROUNDS = 20, 3


def parse_args(argv=None):
    """Parse the command line."""
    try:
        from mmengine.config import DictAction
    except ImportError:  # which training alone needs
        DictAction = None

    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument(
        'what',
        nargs='?',
        choices=WHAT,
        default='all',
        help='; '.join(f'{name}: {text}' for name, text in WHAT.items()) + ' (default)',
    )
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='of training')
    parser.add_argument(
        '--out', default='work_dirs/benchmark', help='folder of the results (default: %(default)s)'
    )
    parser.add_argument('--device', choices=['cuda', 'cpu'], help='default: cuda if there is one')
    parser.add_argument(
        '--dtype',
        choices=['bfloat16', 'float16', 'float32'],
        help='precision but of training (default: bfloat16 on CUDA, float32 on the CPU)',
    )
    parser.add_argument(
        '--cases',
        nargs='+',
        metavar='N:BH:M:K',
        help='of operator and kernels: tokens (a square, or P+Q: P patches and Q others), batch '
        'times heads, landmarks, top-k',
    )
    parser.add_argument(
        '--backends', nargs='+', metavar='NAME', help='of the operator (default: all worth it)'
    )
    parser.add_argument(
        '--config', help='full-attention model (default: ViT-S on CUDA, ViT-T on the CPU)'
    )
    parser.add_argument(
        '--crops', nargs='+', metavar='PIXELS:BATCH', help='sizes and batches of the model'
    )
    parser.add_argument(
        '--iters', type=int, default=200, help='of each training (default: %(default)s)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='of training: override settings of every config',
    )
    parser.add_argument(
        '--compile-as',
        type=int,
        metavar='N',
        help="MiTA's kernels as compiled for another architecture, such as 80 for an A100, on the "
        'GPU that is there: a lead for GPUs that are not',
    )
    parser.add_argument(
        '--quick',
        dest='rounds',
        action='store_const',
        const=QUICK_ROUNDS,
        default=ROUNDS,
        help=f'{QUICK_ROUNDS} rounds in place of {ROUNDS}',
    )
    args = parser.parse_intermixed_args(argv)
    training = args.what == 'training'
    if training != bool(args.configs):
        found = shlex.join([args.what, *args.configs])
        parser.error(f'training takes CONFIG files, and nothing else does; got {found!r}')
    if args.cfg_options and not training:
        parser.error(f'--cfg-options is for training; got {args.what!r}')
    if args.iters < 2:
        parser.error(
            f'--iters must be at least 2, of which the second half counts; got {args.iters}'
        )
    return args


def require_checkout():
    """Raise FileNotFoundError where this file was installed with the package."""
    if not (ROOT / 'benchmarks/__init__.py').is_file():
        raise FileNotFoundError(
            'needs a checkout of the repository, since the benchmarks are not installed with '
            f'mita_seg; got {__file__}, outside of one'
        )


def list_steps(request, rate):
    """What is to be measured: section, title, and a function that returns rows."""
    from benchmarks.kernels import benchmark_kernels
    from benchmarks.operator import benchmark_case

    where = {'device': request.device, 'dtype': request.dtype, 'rounds': request.rounds}
    for case in request.cases:
        yield 'operator', case, partial(benchmark_case, case, request.backends, rate=rate, **where)
    for case in request.kernel_cases:
        yield 'kernels', case, partial(benchmark_kernels, case, rate=rate, **where)
    for crop in request.crops:
        from benchmarks.models import benchmark_crop

        yield 'model', crop, partial(benchmark_crop, request.config, crop, **where)
    for cfg in request.trainings:
        from benchmarks.training import benchmark_training

        yield 'training', cfg.filename, partial(benchmark_training, cfg, request.device)


def emulate(architecture):
    """Have the kernels compiled as for another architecture."""
    try:
        from mita_seg.kernel_check.emulation import compile_as
    except ImportError as error:
        raise ValueError(f'--compile-as needs Triton: {error}') from error
    compile_as(architecture)


def measure(request, out, command, compiled_as=None):
    """Measure all that was asked for; save each row as it comes, print failures and the report."""
    import torch

    from benchmarks.bandwidth import copy_rate
    from benchmarks.report import describe_failure, write_report
    from mita_seg.utils.environment import describe_environment

    torch.manual_seed(0)
    environment = {
        **describe_environment(request.device.type),
        'command': command,
        'rounds': request.rounds,
    }
    if compiled_as:
        environment['kernels_compiled_as'] = f'sm_{compiled_as} (emulated)'
    rate = None
    if request.cases or request.kernel_cases:
        rate = copy_rate(request.device, request.rounds)
        environment['copy_gb_per_s'] = rate / 1e9
    results = {'environment': environment, **{section: [] for section in SECTIONS}}
    for section, title, measure_rows in list_steps(request, rate):
        print(f'{section}: {title}', flush=True)
        for row in measure_rows():
            results[section].append(row)
            write_report(out, results)
            failure = describe_failure(section, row)
            if failure:
                print(f'  {failure}', flush=True)
    print(f'\n{write_report(out, results)}\n')
    return results


def draw(out, results):
    """Draw the operator's figures, if there are any and matplotlib is there."""
    if not any(row['eager_forward_us'] for row in results['operator']):
        return
    try:
        from benchmarks.plot import draw_operator
    except ImportError:
        print(f'{PROG}: no plot: matplotlib is not installed', file=sys.stderr)
        return
    print(draw_operator(out, results))


@ends_on_full_disk(PROG)
def main(argv=None):
    """Run the tool; the exit status is 1 if a result was wrong or a measurement failed."""
    command = shlex.join([PROG, *(sys.argv[1:] if argv is None else argv)])
    with user_errors(PROG):
        args = parse_args(argv)
        require_checkout()
        from benchmarks.request import read_request

        request = read_request(args, ROOT)
        prepare_work_dir(args.out)
        if args.compile_as is not None:
            emulate(args.compile_as)
    out = Path(args.out)
    results = measure(request, out, command, args.compile_as)
    draw(out, results)
    print(out / 'results.json')
    rows = [row for section in SECTIONS for row in results[section]]
    return 1 if any(row['status'] in ('wrong', 'failed') for row in rows) else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
