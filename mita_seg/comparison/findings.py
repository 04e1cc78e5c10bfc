"""What the table of a comparison shows, and what to do next, in two sentences."""

import math

from mita_seg.utils.attention_colours import find_attention

from .names import short_names
from .results import group_by_config, summarise

_ALIKE = 0.05  # a difference of costs below which nothing is said of it
_COSTS = (
    ('computation', 'flops_model'),
    ('training time', 'iter_ms'),
    ('latency', 'latency_ms'),
    ('memory', 'peak_mem_mb'),
)


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
    for noun, field in _COSTS:
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
