"""Time of a training iteration of several models, without loading images.

    python experiments/pretrained/time_training.py CONFIG[@NAME:KEY=VALUE,...] ... --out DIR

Each model is in a process of its own, where it is compiled; then they take turns, so that all meet
the same clock rates and the same other work on the machine. The first one is what the others are
compared with. Weights and images are random. Results: DIR/training.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mita_seg.comparison.measure import crop_size, make_training_iteration
from mita_seg.comparison.variants import parse_variant
from mita_seg.utils.cli import leave_out_pretrained, load_config, prepare_work_dir, user_errors
from mita_seg.utils.environment import describe_environment
from mita_seg.utils.files import write_json
from mita_seg.utils.tables import format_table
from mita_seg.utils.timing import Timer

ROUNDS = 6  # turns of each model
SAMPLES = 8  # iterations of a turn, after two that are not timed
WARM_UP = 4


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog='time_training.py', description=__doc__)
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='as tools/compare.py has them')
    parser.add_argument('--out', help='folder of the results')
    parser.add_argument('--serve', action='store_true', help=argparse.SUPPRESS)  # a worker
    args = parser.parse_args(argv)
    if not args.out and not args.serve:
        parser.error('the following arguments are required: --out')
    return args


def main(argv=None):
    """Measure, print a table, write the file."""
    args = parse_args(argv)
    if args.serve:
        return serve(*args.configs)
    with user_errors('time_training.py'):
        prepare_work_dir(args.out)
        names = [parse_variant(text).name for text in args.configs]
        for text in args.configs:
            load(text)
    workers = [start(text) for text in args.configs]
    try:
        rows = [
            {'name': name, **answer(worker)} for name, worker in zip(names, workers, strict=True)
        ]
        samples = [[] for _ in workers]
        for _ in range(ROUNDS):
            for worker, seconds in zip(workers, samples, strict=True):
                worker.stdin.write('go\n')
                worker.stdin.flush()
                seconds += answer(worker)
    finally:
        for worker in workers:
            worker.kill()
    for row, seconds in zip(rows, samples, strict=True):
        row['iter_ms'] = 1000 * statistics.median(seconds)
    write_json(
        Path(args.out) / 'training.json', {'rows': rows, 'environment': describe_environment()}
    )
    print(
        format_table([['model', 'ms', 'times', 'MiB'], *(describe(row, rows[0]) for row in rows)])
    )


def load(text):
    """The config of a model, without pretrained weights."""
    variant = parse_variant(text)
    cfg = load_config(variant.config, variant.options)
    leave_out_pretrained(cfg)
    return cfg


def start(text):
    """The worker of a model."""
    command = [sys.executable, __file__, text, '--serve']
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answer(worker):
    """What a worker says next."""
    line = worker.stdout.readline()
    if not line:
        sys.exit(f'time_training.py: {worker.args[2]} failed, see above')
    return json.loads(line)


def serve(text):
    """Answer with the peak of memory, then with seconds of iterations whenever asked."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what else is printed
    cfg = load(text)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    model = MODELS.build(cfg.model).to(device)
    batch = cfg.train_dataloader.batch_size
    iterate = make_training_iteration(cfg, model, batch, *crop_size(cfg))
    timer = Timer(iterate, device, calls=1, warm_up=WARM_UP)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == 'cuda' else None
    print(json.dumps({'batch': batch, 'peak_mib': peak}), file=answers, flush=True)
    for _ in sys.stdin:
        seconds = [timer.sample() for _ in range(2 + SAMPLES)][2:]
        print(json.dumps(seconds), file=answers, flush=True)


def describe(row, first):
    """A row of the table."""
    peak = '' if row['peak_mib'] is None else f'{row["peak_mib"]:.0f}'
    return [row['name'], f'{row["iter_ms"]:.2f}', f'{first["iter_ms"] / row["iter_ms"]:.2f}x', peak]


if __name__ == '__main__':
    main()
