"""Time attention operators and whole models: full attention against MiTA attention."""

import argparse
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

from mita_seg.cli import load_config, prepare_work_dir, user_errors

PROG = 'benchmark.py'
CONFIG = 'configs/mita_segmenter/mita-segmenter_vit-{}_full_8xb1-160k_ade20k-512x512.py'
ROUNDS, QUICK_ROUNDS = 20, 3


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument(
        'what', nargs='?', choices=['operator', 'model', 'all'], default='all', help='default: all'
    )
    parser.add_argument(
        '--out', default='work_dirs/benchmark', help='folder of the results (default: %(default)s)'
    )
    parser.add_argument('--device', choices=['cuda', 'cpu'], help='default: cuda if there is one')
    parser.add_argument(
        '--dtype',
        choices=['bfloat16', 'float16', 'float32'],
        help='precision (default: bfloat16 on CUDA, float32 on the CPU)',
    )
    parser.add_argument(
        '--cases', nargs='+', metavar='N:BH:M:K', help='tokens, batch times heads, landmarks, top-k'
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
        '--quick', action='store_true', help=f'{QUICK_ROUNDS} rounds in place of {ROUNDS}'
    )
    return parser.parse_args(argv)


def make_plan(args):
    """Check what was asked for and fill in the defaults, before any work.

    Returns:
        SimpleNamespace: ``device``, ``dtype``, ``rounds``; ``cases`` and ``backends`` of the
        operator; ``config`` and ``crops`` of the model. No cases or no crops: not asked for.

    Raises:
        ValueError: It cannot be done.
        FileNotFoundError: The config does not exist.
    """
    import torch

    from mita_seg.benchmark import cases
    from mita_seg.benchmark.backends import choose_backends

    device = torch.device(args.device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    cuda = device.type == 'cuda'
    if cuda and not torch.cuda.is_available():
        raise ValueError("--device must be 'cpu' where torch finds no CUDA device, got 'cuda'")
    dtype = getattr(torch, args.dtype or ('bfloat16' if cuda else 'float32'))
    root = Path(__file__).resolve().parents[1]  # holds tools/ and configs/, also in a wheel
    plan = SimpleNamespace(
        device=device,
        dtype=dtype,
        rounds=QUICK_ROUNDS if args.quick else ROUNDS,
        cases=cases.CUDA_CASES if cuda else cases.CPU_CASES,
        backends=choose_backends(args.backends, device, dtype),
        config=args.config or str(root / CONFIG.format('s' if cuda else 't')),
        crops=cases.CUDA_CROPS if cuda else cases.CPU_CROPS,
    )
    if args.cases:
        plan.cases = [cases.parse_case(text) for text in args.cases]
    if args.crops:
        plan.crops = [cases.parse_crop(text) for text in args.crops]
    if args.what == 'operator':
        plan.crops = []
        return plan
    if args.what == 'model':
        plan.cases = []
    try:
        import mita_seg.models  # noqa: F401
    except ImportError as error:
        raise ValueError(f'{error}. `{PROG} operator` needs PyTorch alone') from error
    load_config(plan.config)
    return plan


def measure(plan, out, command):
    """Measure all of a plan, saving what is there after each case and crop; print the report."""
    import torch

    from mita_seg.benchmark.floor import copy_rate
    from mita_seg.benchmark.operator import benchmark_case
    from mita_seg.benchmark.report import write_report
    from mita_seg.environment import describe_environment

    torch.manual_seed(0)
    where = {'device': plan.device, 'rounds': plan.rounds}
    rate = copy_rate(**where)
    environment = {
        **describe_environment(plan.device.type),
        'command': command,
        'rounds': plan.rounds,
        'copy_gb_per_s': rate / 1e9,
    }
    results = {'environment': environment, 'operator': [], 'model': []}
    for case in plan.cases:
        print(f'operator: {case}', flush=True)
        rows = benchmark_case(case, plan.backends, dtype=plan.dtype, rate=rate, **where)
        results['operator'] += rows
        write_report(out, results)
    for crop in plan.crops:
        from mita_seg.benchmark.models import benchmark_crop

        print(f'model: {crop}', flush=True)
        results['model'] += benchmark_crop(plan.config, crop, dtype=plan.dtype, **where)
        write_report(out, results)
    print(f'\n{write_report(out, results)}\n')
    return results


def draw(out, results):
    """Draw the operator's figures, if there are any and matplotlib is there."""
    if not any(row['eager_forward_us'] for row in results['operator']):
        return
    try:
        from mita_seg.benchmark.plot import draw_operator
    except ImportError:
        print(f'{PROG}: no plot: matplotlib is not installed', file=sys.stderr)
        return
    print(draw_operator(out, results))


def main(argv=None):
    """Run the tool; the exit status is 1 if a result was wrong or a backend failed."""
    command = shlex.join([PROG, *(sys.argv[1:] if argv is None else argv)])
    with user_errors(PROG):
        args = parse_args(argv)
        plan = make_plan(args)
        prepare_work_dir(args.out)
    out = Path(args.out)
    results = measure(plan, out, command)
    draw(out, results)
    print(out / 'results.json')
    rows = results['operator'] + results['model']
    return 1 if any(row['status'] in ('wrong', 'failed') for row in rows) else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
