"""Time and memory of the forward pass of one image of any size.

    python experiments/pretrained/time_forward.py CONFIG[@NAME:KEY=VALUE,...] ... --out DIR

The first model is what the others are compared with. Times do not depend on weights, so they are
random. All take turns, in bfloat16: as a CUDA graph, and as eager calls. Results: DIR/forward.json.
"""

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.timing import Candidate, modes_on, peak_extra_bytes, time_in_turn
from mita_seg.comparison.variants import parse_variant
from mita_seg.utils.cli import leave_out_pretrained, load_config, prepare_work_dir, user_errors
from mita_seg.utils.environment import describe_environment
from mita_seg.utils.files import write_json
from mita_seg.utils.tables import format_table

PATCH = 14
ROUNDS = 20


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog='time_forward.py', description=__doc__)
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='as tools/compare.py has them')
    parser.add_argument('--pixels', type=int, default=1568, help='height and width of the image')
    parser.add_argument('--out', required=True, help='folder of the results')
    args = parser.parse_args(argv)
    if args.pixels < PATCH or args.pixels % PATCH:
        parser.error(f'--pixels must be a multiple of {PATCH}, got {args.pixels}')
    return args


def main(argv=None):
    """Measure, print a table, write the file."""
    args = parse_args(argv)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    with user_errors('time_forward.py'):
        prepare_work_dir(args.out)
        models = {
            variant.name: build(variant.config, variant.options, args.pixels).to(device)
            for variant in map(parse_variant, args.configs)
        }
    torch.manual_seed(0)
    patches = args.pixels // PATCH
    blobs = torch.randn(1, 3, patches, patches, device=device)
    image = F.interpolate(blobs, size=(args.pixels, args.pixels), mode='bilinear').bfloat16()
    rows, candidates = [], []
    for name, model in models.items():
        row = {'name': name, 'pixels': args.pixels, 'tokens': patches**2, 'status': 'ok'}
        candidate = Candidate(row, forward(model, image), torch.no_grad)
        row['peak_extra_bytes'] = peak_extra_bytes(candidate.function, device, torch.no_grad)
        rows.append(row)
        candidates.append(candidate)
    modes = modes_on(device)
    time_in_turn(candidates, modes, device, ROUNDS, 'time')
    write_json(
        Path(args.out) / 'forward.json', {'rows': rows, 'environment': describe_environment()}
    )
    print(format_table([head(modes), *(describe(row, rows[0], modes) for row in rows)]))


def build(config, options, pixels):
    """A model in bfloat16 whose position embeddings are of that size."""
    cfg = load_config(config, options)
    init_default_scope('mmseg')
    leave_out_pretrained(cfg)
    cfg.model.backbone.img_size = cfg.model.data_preprocessor.size = (pixels, pixels)
    return MODELS.build(cfg.model).bfloat16().eval()


def forward(model, image):
    """A function that computes the map of logits at patch resolution."""
    return lambda: model(image, mode='tensor')


def head(modes):
    """Of the table."""
    return ['model', *(f'{mode} {what}' for mode in modes for what in ('ms', 'times')), 'MiB']


def describe(row, first, modes):
    """A row of the table."""
    times = [(row.get(f'{mode}_time_us'), first.get(f'{mode}_time_us')) for mode in modes]
    cells = [
        text
        for time, full in times
        for text in (
            (f'{time / 1000:.2f}', f'{full / time:.2f}x') if time and full else (row['status'], '')
        )
    ]
    extra = row['peak_extra_bytes']
    return [row['name'], *cells, '' if extra is None else f'{extra / 2**20:.0f}']


if __name__ == '__main__':
    main()
