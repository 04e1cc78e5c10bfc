"""``results.json`` and ``results.md``, which also is what the tool prints."""

from mita_seg.utils.files import replacing, write_json

from .cases import CASE_TITLE
from .formats import format_error, format_filled, format_number, format_ratio, list_dropouts
from .gate import LARGEST_LIMIT, MULTIPLES, TOLERANCES
from .kernel_report import describe_kernels
from .race import EAGER, GRAPH
from .training_report import describe_training

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
        cells += [row['backend'], format_error(row['output_error'])]
        for mode in (GRAPH, EAGER):
            for field in ('forward', 'forward_backward'):
                cells += [
                    format_number(row[f'{mode}_{field}_us']),
                    format_ratio(row[f'{mode}_{field}_ratio']),
                ]
        cells += [format_ratio(row['forward_over_floor']), format_number(row['host_forward_us'])]
        cells += [format_number(row['peak_extra_bytes'], 2**20), format_ratio(row['memory_ratio'])]
        table.append(cells)
    tolerances = (f'{limit:g} ({str(d).removeprefix("torch.")})' for d, limit in TOLERANCES.items())
    return [
        f'Precision: {rows[0]["dtype"]}.',
        format_filled(table),
        *list_dropouts(rows, '{backend}', CASE_TITLE),
        _OPERATOR.format(rate=environment['copy_gb_per_s']),
        _GATE.format(tolerances=', '.join(tolerances), largest=LARGEST_LIMIT, **MULTIPLES),
    ]


def _describe_models(rows, environment):
    head = ['crop', 'batch', 'measure', 'side']
    for mode in (GRAPH, EAGER):
        head += [f'{mode} ms', 'ratio']
    table = [[*head, 'memory MiB', 'ratio']]
    for row in rows:
        cells = [str(row['crop']), str(row['batch']), row['measure'], row['side']]
        for mode in (GRAPH, EAGER):
            cells += [
                format_number(row[f'{mode}_time_us'], 1e3),
                format_ratio(row[f'{mode}_time_ratio']),
            ]
        cells += [format_number(row['peak_extra_bytes'], 2**20), format_ratio(row['memory_ratio'])]
        table.append(cells)
    return [
        f'`{rows[0]["config"]}`. Precision: {rows[0]["dtype"]}.',
        format_filled(table),
        *list_dropouts(rows, '{side}, {measure}', '{crop} px'),
        _MODEL,
    ]


_SECTIONS = {
    'operator': _describe_operator,
    'kernels': describe_kernels,
    'model': _describe_models,
    'training': describe_training,
}
