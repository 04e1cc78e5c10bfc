"""``results.json`` and ``results.md``, which also is what the tool prints."""

from mita_seg.files import replacing, write_json
from mita_seg.tables import format_table

from .gate import LARGEST_LIMIT, MULTIPLES, TOLERANCES
from .outcome import OK
from .race import EAGER, GRAPH

_NOTHING = '-'
_METHOD = (
    'Times are medians; within a case or crop the contestants take turns. Graph: replays of a '
    'captured CUDA graph; eager: calls in a row.'
)
_OPERATOR = (
    'Tensors are [1, B*H, N, 64]. Forward is without gradients; both is forward and backward to '
    'query, key and value. MiTA pools its landmarks within what is timed. A ratio compares with '
    'the best full attention of the case: times above 1x are faster, memory below 1x is less. '
    'Floor: query, key and value read and the output written once at the rate of a large copy, '
    '{rate:,.0f} GB/s read plus written in this run; `/ floor` is the forward over it. Host: time '
    'until a forward returns to Python. Memory: peak of the CUDA allocator in forward and backward '
    'beyond what was there before.'
)
_GATE = (
    'Before it is timed, a backend is compared with the definition in float32 on the same inputs: '
    'first and last head, up to 1,024 queries, output and gradients. Relative errors (norms) of '
    'up to {tolerances} pass; above, up to {output} (output) and {gradients} (gradients) times '
    'those of the definition in the same precision, where near-ties among keys and experts are '
    'decided either way, and at most {largest}.'
)
_MODEL = (
    'From the image to the logits of the decode head; the training step is forward and backward '
    'of the cross entropy at patch resolution. In training, parameters are float32, under autocast '
    'to the precision; in inference they have the precision. The complete step is that of '
    'MMSegmentation, with its loss at full resolution and the optimizer, as `tools/train.py` runs '
    'it (with `--amp` unless the precision is float32). Full and MiTA (7x7 landmarks, 49 keys, '
    'encoder and decoder) differ in the attention alone; stock is the backbone and head of '
    'MMSegmentation.'
)


def write_report(folder, results):
    """Write ``results.json`` and ``results.md``.

    Args:
        folder (Path): Where.
        results (dict): ``environment``, and rows under ``operator`` and ``model``.

    Returns:
        str: The Markdown.
    """
    write_json(folder / 'results.json', results)
    parts = ['# Benchmark', _METHOD]
    if results['operator']:
        parts += ['## Operator', *_describe_operator(results)]
    if results['model']:
        parts += ['## Model', *_describe_models(results['model'])]
    environment = [f'- {key}: {value}' for key, value in results['environment'].items()]
    parts += ['## Environment', '\n'.join(environment)]
    text = '\n\n'.join(parts)
    with replacing(folder / 'results.md') as file:
        file.write(f'{text}\n')
    return text


def _describe_operator(results):
    rows = results['operator']
    head = ['N', 'B*H', 'm, k', 'backend', 'error']
    for mode in (GRAPH, EAGER):
        head += [f'{mode} forward us', 'ratio', f'{mode} both us', 'ratio']
    table = [[*head, '/ floor', 'host us', 'memory MiB', 'ratio']]
    for row in rows:
        cells = [str(row['tokens']), str(row['heads']), f'{row["landmarks"]}, {row["topk"]}']
        cells += [row['backend'], _error(row['output_error'])]
        for mode in (GRAPH, EAGER):
            for field in ('forward', 'forward_backward'):
                cells += [_number(row[f'{mode}_{field}_us']), _ratio(row[f'{mode}_{field}_ratio'])]
        cells += [_ratio(row['forward_over_floor']), _number(row['host_forward_us'])]
        cells += [_number(row['peak_extra_bytes'], 2**20), _ratio(row['memory_ratio'])]
        table.append(cells)
    tolerances = (f'{limit:g} ({str(d).removeprefix("torch.")})' for d, limit in TOLERANCES.items())
    return [
        f'Precision: {rows[0]["dtype"]}.',
        _format_filled(table),
        *_list_dropouts(rows, '{backend}', 'N={tokens} B*H={heads} m={landmarks} k={topk}'),
        _OPERATOR.format(rate=results['environment']['copy_gb_per_s']),
        _GATE.format(tolerances=', '.join(tolerances), largest=LARGEST_LIMIT, **MULTIPLES),
    ]


def _describe_models(rows):
    head = ['crop', 'batch', 'measure', 'side']
    for mode in (GRAPH, EAGER):
        head += [f'{mode} ms', 'ratio']
    table = [[*head, 'memory MiB', 'ratio']]
    for row in rows:
        cells = [str(row['crop']), str(row['batch']), row['measure'], row['side']]
        for mode in (GRAPH, EAGER):
            cells += [_number(row[f'{mode}_time_us'], 1e3), _ratio(row[f'{mode}_time_ratio'])]
        cells += [_number(row['peak_extra_bytes'], 2**20), _ratio(row['memory_ratio'])]
        table.append(cells)
    return [
        f'`{rows[0]["config"]}`. Precision: {rows[0]["dtype"]}.',
        _format_filled(table),
        *_list_dropouts(rows, '{side}, {measure}', '{crop} px'),
        _MODEL,
    ]


def _format_filled(table):
    """Format a table without the columns that hold nothing."""
    columns = [column for column in zip(*table, strict=True) if set(column[1:]) != {_NOTHING}]
    return format_table(list(zip(*columns, strict=True)))


def _list_dropouts(rows, who, where):
    """Who was not measured, why and where."""
    places = {}
    for row in rows:
        if row['status'] != OK:
            line = f'- {who.format(**row)}: {row["status"]}: {row["reason"]}'
            places.setdefault(line, []).append(where.format(**row))
    lines = [f'{line} ({"; ".join(found)})' for line, found in places.items()]
    return ['\n'.join(lines)] if lines else []


def _number(value, divisor=1):
    if value is None:
        return _NOTHING
    value /= divisor
    return f'{value:,.0f}' if value >= 100 else f'{value:.1f}'


def _ratio(value):
    return _NOTHING if value is None else f'{value:.2f}x'


def _error(value):
    return _NOTHING if value is None else f'{value:.1e}'
