"""``results.json`` and ``results.md`` from the results of the runs."""

import statistics

from mita_seg.utils.files import read_json, replacing, write_json
from mita_seg.utils.tables import format_table

from .names import short_names

_FIELDS = (
    'config',
    'seed',
    'mIoU',
    'aAcc',
    'mAcc',
    'params',
    'flops_model',
    'flops_decoder',
    'iter_ms',
    'latency_ms',
    'peak_mem_mb',
    'checkpoint',
)
# Title, field, divisor, decimals: two tables, neither of which is too wide for a terminal.
_QUALITY = (
    ('mIoU %', 'mIoU', 1, 2),
    ('aAcc %', 'aAcc', 1, 2),
    ('mAcc %', 'mAcc', 1, 2),
)
_COST = (
    ('params M', 'params', 1e6, 3),
    ('FLOPs G', 'flops_model', 1e9, 3),
    ('decoder FLOPs G', 'flops_decoder', 1e9, 3),
    ('train ms/iter', 'iter_ms', 1, 1),
    ('latency ms', 'latency_ms', 1, 2),
    ('peak MiB', 'peak_mem_mb', 1, 0),
)


def write_report(work_dir, results, command, findings=''):
    """Write ``results.json`` and ``results.md``.

    ``environment`` is that of the last run; beside ``command`` it lists all ``commands`` that added
    to the comparison.

    Args:
        work_dir (Path): Folder of the comparison.
        results (Sequence[dict]): At least one result.
        command (str): The command line, for the record.
        findings (str): What the tables show.

    Returns:
        str: The tables in Markdown.
    """
    recorded = (read_json(work_dir / 'results.json') or {}).get('environment', {})
    commands = list(dict.fromkeys([*recorded.get('commands', []), command]))
    environment = {**results[-1]['environment'], 'command': command, 'commands': commands}
    rows = [{field: result[field] for field in _FIELDS} for result in results]
    write_json(work_dir / 'results.json', {'runs': rows, 'environment': environment})
    tables = make_tables(results)
    with replacing(work_dir / 'results.md') as file:
        file.write(f'# Comparison\n\n{tables}\n\n{_notes(results)}\n\n')
        file.writelines(f'{paragraph}\n\n' for paragraph in filter(None, [findings]))
        file.write('## Environment\n\n')
        file.writelines(f'- {key}: {value}\n' for key, value in results[-1]['environment'].items())
        file.write('\n## Commands\n\n')
        file.writelines(f'    {each}\n' for each in commands)
    return tables


def make_tables(results):
    """Two Markdown tables, quality and cost, with a row for each config by its short name.

    Cells hold mean ± standard deviation over seeds.
    """
    groups = group_by_config(results)
    names = short_names(list(groups))
    quality = [['config', 'seeds', *(title for title, *_ in _QUALITY)]]
    cost = [['config', *(title for title, *_ in _COST)]]
    for name, group in zip(names, groups.values(), strict=True):
        quality.append([name, str(len(group)), *_cells(group, _QUALITY)])
        cost.append([name, *_cells(group, _COST)])
    return f'{format_table(quality)}\n\n{format_table(cost)}'


def group_by_config(results):
    """Results of each config, in the order in which the configs first appear."""
    groups = {}
    for result in results:
        groups.setdefault(result['config'], []).append(result)
    return groups


def summarise(groups, field):
    """Mean and spread over seeds, by config.

    Args:
        groups (dict[str, list[dict]]): From :func:`group_by_config`.
        field (str): The figure.

    Returns:
        dict[str, tuple[float, float]]: Without the configs that lack the figure.
    """
    values = {config: [result[field] for result in group] for config, group in groups.items()}
    return {config: mean_and_spread(own) for config, own in values.items() if None not in own}


def mean_and_spread(values):
    """Mean and sample standard deviation; the latter is 0 for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _cells(group, columns):
    return [
        _cell([result[field] for result in group], divisor, decimals)
        for _, field, divisor, decimals in columns
    ]


def _cell(values, divisor, decimals):
    if None in values:
        return '-'
    mean, spread = mean_and_spread([value / divisor for value in values])
    text = f'{mean:.{decimals}f}'
    # Counts are the same for every seed.
    return f'{text} ± {spread:.{decimals}f}' if spread else text


def _notes(results):
    environment = results[-1]['environment']
    notes = [
        'mIoU, aAcc and mAcc on the held-out images; ± is the standard deviation over seeds. '
        'FLOPs: one multiply-add = 1, one image at crop size. '
        'Latency: median forward pass of one image at crop size, in the precision of training; '
        'train: median iteration. '
        f'Timing: {environment["timing"]}. Memory: {environment["peak_mem_mb"]}.'
    ]
    configs = list(group_by_config(results))
    if short_names(configs) != configs:
        notes.append('Configs: ' + ', '.join(f'`{config}`' for config in configs) + '.')
    if len({(r['environment']['device'], r['environment']['torch']) for r in results}) > 1:
        notes.append('**The runs were measured on different devices or torch versions.**')
    return '\n\n'.join(notes)
