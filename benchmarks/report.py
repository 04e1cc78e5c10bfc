"""``results.json`` and ``results.md``, which also is what the tool prints."""

from mita_seg.utils.files import replacing, write_json
from mita_seg.utils.tables import format_table

from .cases import CASE_TITLE
from .correctness import LARGEST_LIMIT, MULTIPLES, TOLERANCES
from .timing import EAGER, GRAPH, OK

_NOTHING = '-'
_METHOD = (
    'Times are medians; within a case or crop, what is compared takes turns. Graph: replays of a '
    'captured CUDA graph; eager: calls in a row.'
)
_OPERATOR = (
    'Tensors are [1, B*H, N, 64]. Forward is without gradients; both is forward and backward to '
    'query, key and value. MiTA pools its landmarks within what is timed. A ratio compares with '
    'the best full attention of the case: times above 1x are faster, memory below 1x is less. '
    'Floor, the bandwidth bound: query, key and value read and the output written once at the rate '
    'of a large copy, {rate:,.0f} GB/s read plus written in this run; `/ floor` is the forward '
    'over it. Host: time until a forward returns to Python. Memory: peak of the CUDA allocator in '
    'forward and backward beyond what was there before.'
)
_CORRECTNESS = (
    'Before it is timed, a backend is compared with the definition in float32 on the same inputs: '
    'first and last head, up to 1,024 queries, output and gradients. Relative errors (norms) of '
    'up to {tolerances} pass; above, up to {output} (output) and {gradients} (gradients) times '
    'those of the definition in the same precision, where near-ties among keys and experts are '
    'decided either way, and at most {largest}.'
)
_KERNELS = (
    "Microseconds on the device by torch's profiler: medians over eager calls, all launches of a "
    'kernel in a call together; `graph us` is a replay of the CUDA graph of the pass. Read and '
    'written are the bytes that a kernel has to move, each once; the floor, its bandwidth bound, '
    'is the time of a large copy of as many, {rate:,.0f} GB/s read plus written in this run. What '
    'the kernel before left in the cache is read faster than that, so that a ratio can be below '
    '1x. Kernels without a floor are not ours; sums of bytes and floors leave them out.'
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
_TRAINING = (
    'The training loop of MMEngine on the data of the config: loading, augmentation, optimizer, '
    'schedule and logging included; validation, checkpoints and pretrained weights left out. '
    'Figures are those of the second half of the iterations. The device is waited for at both ends '
    'of that half alone; `ms` is the mean. Waiting for data is the median. A ratio compares with '
    'the first config: above 1x is faster. Memory: peak of the CUDA allocator, the first iteration '
    'left out. The loss is that of the last one.'
)


def write_report(folder, results):
    """Write ``results.json`` and ``results.md``.

    Args:
        folder (Path): Where.
        results (dict): ``environment``, and rows under ``operator``, ``kernels``, ``model`` and
            ``training``; what was not asked for may be absent.

    Returns:
        str: The Markdown.
    """
    write_json(folder / 'results.json', results)
    environment = results['environment']
    parts = ['# Benchmark']
    if results.get('operator') or results.get('model'):
        parts.append(_METHOD)
    for section, describe in _SECTIONS.items():
        rows = results.get(section)
        if rows:
            parts += [f'## {section.capitalize()}', *describe(rows, environment)]
    lines = [f'- {key}: {value}' for key, value in environment.items()]
    parts += ['## Environment', '\n'.join(lines)]
    text = '\n\n'.join(parts)
    with replacing(folder / 'results.md') as file:
        file.write(f'{text}\n')
    return text


def _describe_operator(rows, environment):
    head = ['N', 'B*H', 'm, k', 'backend', 'error']
    for mode in (GRAPH, EAGER):
        head += [f'{mode} forward us', 'ratio', f'{mode} both us', 'ratio']
    table = [[*head, '/ floor', 'host us', 'memory MiB', 'ratio']]
    for row in rows:
        cells = [str(row['tokens']), str(row['heads']), f'{row["landmarks"]}, {row["topk"]}']
        cells += [row['backend'], _error(row['output_error'])]
        for mode in (GRAPH, EAGER):
            for field in ('forward', 'forward_backward'):
                name = f'{mode}_{field}'
                cells += [_number(row[f'{name}_us']), _ratio(row[f'{name}_ratio'])]
        cells += [_ratio(row['forward_over_floor']), _number(row['host_forward_us'])]
        cells += [_number(row['peak_extra_bytes'], 2**20), _ratio(row['memory_ratio'])]
        table.append(cells)
    tolerances = (f'{limit:g} ({str(d).removeprefix("torch.")})' for d, limit in TOLERANCES.items())
    return [
        f'Precision: {rows[0]["dtype"]}.',
        _table(table),
        *_list_failures(rows, 'operator', CASE_TITLE),
        _OPERATOR.format(rate=environment['copy_gb_per_s']),
        _CORRECTNESS.format(tolerances=', '.join(tolerances), largest=LARGEST_LIMIT, **MULTIPLES),
    ]


def _describe_kernels(rows, environment):
    tables = {}
    head = ['pass', 'kernel', 'launches', 'us', 'graph us', 'KiB read', 'KiB written']
    for row in rows:
        if row['status'] != OK:
            continue
        title = CASE_TITLE.format(**row)
        table = tables.setdefault(title, [[*head, 'floor us', '/ floor']])
        cells = [row['pass'].replace('_', ' and '), row['kernel'], f'{row["launches"]:g}']
        cells += [_number(row['time_us']), _number(row['graph_us'])]
        cells += [_number(row[f'{way}_bytes'], 2**10) for way in ('read', 'written')]
        cells += [_number(row['floor_us']), _ratio(row['time_over_floor'])]
        table.append(cells)
    parts = [f'Precision: {rows[0]["dtype"]}.']
    for title, table in tables.items():
        parts += [f'### {title}', _table(table)]
    return [
        *parts,
        *_list_failures(rows, 'kernels', CASE_TITLE),
        _KERNELS.format(rate=environment['copy_gb_per_s']),
    ]


def _describe_models(rows, environment):
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
        _table(table),
        *_list_failures(rows, 'model', '{crop} px'),
        _MODEL,
    ]


def _describe_training(rows, environment):
    first = rows[0]['iteration_ms']
    table = [['config', 'batch', 'iterations', 'ms', 'ratio', 'data ms', 'memory MiB', 'loss']]
    for row in rows:
        time = row['iteration_ms']
        cells = [row['config'], str(row['batch']), str(row['iterations']), _number(time)]
        cells += [_ratio(first / time if first and time else None)]
        cells += [_number(row['data_wait_ms']), _number(row['peak_bytes'], 2**20)]
        cells += [_NOTHING if row['last_loss'] is None else f'{row["last_loss"]:.4g}']
        table.append(cells)
    return [
        _table(table),
        *_list_failures(rows, 'training', '{iterations} iterations'),
        _TRAINING,
    ]


def _number(value, divisor=1):
    """A figure with a decimal below 100; None is a dash."""
    if value is None:
        return _NOTHING
    value /= divisor
    return f'{value:,.0f}' if value >= 100 else f'{value:.1f}'


def _ratio(value):
    """Such as ``1.25x``; None is a dash."""
    return _NOTHING if value is None else f'{value:.2f}x'


def _error(value):
    """Such as ``2.1e-03``; None is a dash."""
    return _NOTHING if value is None else f'{value:.1e}'


def _table(table):
    """Format a table without its empty columns."""
    columns = [column for column in zip(*table, strict=True) if set(column[1:]) != {_NOTHING}]
    return format_table(list(zip(*columns, strict=True)))


def describe_failure(section, row):
    """Say in one line what was not measured and why.

    Args:
        section (str): ``operator``, ``kernels``, ``model`` or ``training``.
        row (dict): One of its rows.

    Returns:
        str | None: None if it was measured.
    """
    if row['status'] == OK:
        return None
    return f'{_WHO[section].format(**row)}: {row["status"]}: {row["reason"]}'


def _list_failures(rows, section, where):
    """A Markdown list, or nothing; `where` is a template that is filled from a row."""
    places = {}
    for row in rows:
        failure = describe_failure(section, row)
        if failure:
            places.setdefault(failure, []).append(where.format(**row))
    lines = [f'- {failure} ({"; ".join(found)})' for failure, found in places.items()]
    return ['\n'.join(lines)] if lines else []


_WHO = {
    'operator': '{backend}',
    'kernels': 'triton',
    'model': '{side}, {measure}',
    'training': '{config}',
}
_SECTIONS = {
    'operator': _describe_operator,
    'kernels': _describe_kernels,
    'model': _describe_models,
    'training': _describe_training,
}
