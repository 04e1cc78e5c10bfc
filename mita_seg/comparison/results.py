"""``results.json`` and ``results.md``: the results of the runs in tables and in words."""

import math
import statistics

from mita_seg.utils.attention_colours import find_attention
from mita_seg.utils.files import read_json, replacing, write_json
from mita_seg.utils.tables import format_table

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
_ALIKE = 0.05  # a difference of costs below which nothing is said of it
_COMPARED = (
    ('computation', 'flops_model'),
    ('training time', 'iter_ms'),
    ('latency', 'latency_ms'),
    ('memory', 'peak_mem_mb'),
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
    rows = [
        {
            **{field: result[field] for field in _FIELDS},
            'config_file': result.get('config_file'),
            'options': result.get('options', {}),
        }
        for result in results
    ]
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
    timed = [result for result in results if result['latency_ms'] is not None]
    environment = (timed or results)[-1]['environment']
    notes = [
        'mIoU, aAcc and mAcc on the held-out images; ± is the standard deviation over seeds. '
        'FLOPs: one multiply-add = 1, one image at crop size. '
        'Latency: median forward pass of one image at crop size, in the precision of training; '
        'train: median iteration. '
        f'Timing: {environment["timing"]}. Memory: {environment["peak_mem_mb"]}.'
    ]
    if len(timed) < len(results):
        notes.append(
            f'Size and speed of {len(results) - len(timed)} runs are not measured yet: the same '
            'command without `--no-timing` adds them.'
        )
    configs = list(group_by_config(results))
    if short_names(configs) != configs:
        notes.append('Configs: ' + ', '.join(f'`{config}`' for config in configs) + '.')
    variants = {r['config']: r for r in results if r.get('options')}
    for name, result in variants.items():
        options = ', '.join(f'`{key}={value}`' for key, value in result['options'].items())
        notes.append(f'`{name}`: `{result["config_file"]}` with {options}.')
    if len({(r['environment']['device'], r['environment']['torch']) for r in results}) > 1:
        notes.append('**The runs were measured on different devices or torch versions.**')
    return '\n\n'.join(notes)


def short_names(stems):
    """Names of configs without the parts that all of them share.

    Args:
        stems (Sequence[str]): Names such as ``mita-segmenter_vit-t_full_8xb1-160k_ade20k-512x512``,
            and labels of variants.

    Returns:
        list[str]: Such as ``full``; the names themselves where nothing can be left out.
    """
    parts = [stem.split('_') for stem in stems]
    short = {}
    # A label and the name of a file are not of the same parts: each kind is shortened by itself.
    for length in {len(part) for part in parts}:
        alike = [part for part in parts if len(part) == length]
        differs = [len(set(column)) > 1 for column in zip(*alike, strict=True)]
        for part in alike:
            short['_'.join(part)] = '_'.join(
                token for token, kept in zip(part, differs, strict=True) if kept or len(alike) == 1
            )
    names = [short[stem] for stem in stems]
    return names if len(set(names)) == len(names) else list(stems)


def describe_findings(results):
    """Put the measured figures into words; nothing is said that they do not hold.

    Args:
        results (Sequence[dict]): At least one result.

    Returns:
        str: Two sentences; empty for a single config.
    """
    groups = group_by_config(results)
    if len(groups) < 2:
        return ''
    names = dict(zip(groups, short_names(list(groups)), strict=True))
    shown = _compare_two(groups, names) if len(groups) == 2 else _name_the_best(groups, names)
    return f'{shown} {_say_what_is_next(groups)}'


def _order(groups):
    """Full attention, if a config's name tells which it is, and the others."""
    full = [config for config in groups if find_attention(config) == 'full']
    first = full[0] if full else next(iter(groups))
    return first, [config for config in groups if config != first]


def _compare_two(groups, names):
    base, (other,) = _order(groups)
    parts = {}
    for noun, field in _COMPARED:
        values = summarise(groups, field)
        if len(values) == 2 and values[base][0]:
            parts.setdefault(_proportion(values[other][0] / values[base][0]), []).append(noun)
    costs = _join([f'{proportion} {_join(nouns)}' for proportion, nouns in parts.items()])
    quality = summarise(groups, 'mIoU')
    ours, theirs = quality[other][0], quality[base][0]
    shown = f'{names[other]} has an mIoU of {ours:.1f} and {names[base]} of {theirs:.1f}'
    return (
        f'{shown}; against {names[base]}, {names[other]} takes {costs}.' if costs else f'{shown}.'
    )


def _proportion(ratio):
    if abs(ratio - 1) < _ALIKE:
        return 'about as much'
    if ratio < 1:
        return f'{100 * (1 - ratio):.0f} % less'
    return f'{100 * (ratio - 1):.0f} % more' if ratio < 2 else f'{ratio:.1f} times the'


def _name_the_best(groups, names):
    parts = []
    for title, field, best in (
        ('highest mIoU', 'mIoU', max),
        ('least training time', 'iter_ms', min),
        ('fewest FLOPs', 'flops_model', min),
        ('least memory', 'peak_mem_mb', min),
    ):
        values = {config: value for config, (value, _) in summarise(groups, field).items()}
        if values:
            winners = [names[c] for c in values if values[c] == best(values.values())]
            parts.append(f'{title}: {_join(winners)}')
    text = '; '.join(parts)
    return f'{text[0].upper()}{text[1:]}.'


def _say_what_is_next(groups):
    base, others = _order(groups)
    times = summarise(groups, 'iter_ms')
    slow = base in times and all(
        times[other][0] > (1 - _ALIKE) * times[base][0] for other in others if other in times
    )
    where = 'on data of your own (README, "Comparing")'
    if slow:
        where = f'with more tokens, that is larger images or smaller patches, and {where}'
    if min(map(len, groups.values())) < 2:
        return (
            'With one seed a difference in mIoU may be chance: next, add seeds (--seeds 0 1 2), '
            f'and then compare {where}.'
        )
    if len(groups) > 2:
        return (
            f'Differences in mIoU of the size of the spreads may be chance: next, compare {where}.'
        )
    values = summarise(groups, 'mIoU')
    error = math.sqrt(sum(values[c][1] ** 2 / len(group) for c, group in groups.items()))
    difference = values[others[0]][0] - values[base][0]
    return (
        f'The difference in mIoU is {difference:+.1f}, its standard error {error:.1f}: next, '
        f'compare {where}.'
    )


def _join(words):
    return ' and '.join(filter(None, [', '.join(words[:-1]), *words[-1:]]))
