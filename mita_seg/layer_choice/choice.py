"""The best choice of layers under a budget, and the config that has it."""

import copy

from mita_seg.layers import FullAttention
from mita_seg.layers.option_names import check_options

from .costs import join


def steps(order, quality, times):
    """What each number of swapped layers costs and saves.

    Args:
        order (list[int]): Layers in the order in which they are added.
        quality (dict[str, dict]): From :func:`.costs.measure_quality`.
        times (dict[int, dict]): From :func:`.costs.measure_times`.

    Returns:
        list[dict]: From no layer to all: ``layers``, ``loss`` and ``mIoU``; ``loss_drop``, the rise
        of the loss, and ``mIoU_drop``, in points; ``ms``, of the attention of all layers.
    """
    full = quality[join([])]
    found = []
    for count in range(len(order) + 1):
        swapped = order[:count]
        now = quality[join(swapped)]
        ms = sum(times[layer]['mita' if layer in swapped else 'full'] for layer in order)
        found.append(
            {
                'layers': sorted(swapped),
                **now,
                'loss_drop': now['loss'] - full['loss'],
                'mIoU_drop': full['mIoU'] - now['mIoU'],
                'ms': ms,
            }
        )
    return found


def choose(found, *, budget_ms=None, max_drop=None, number=None, by='loss'):
    """The best step under a budget.

    Args:
        found (list[dict]): From :func:`steps`.
        budget_ms (float, optional): Most milliseconds of the encoder's attention: the fewest layers
            that keep to it.
        max_drop (float, optional): Largest drop: the most layers that keep to it.
        number (int, optional): So many layers.
        by (str): ``'loss'`` or ``'mIoU'``: what drops.

    Returns:
        dict: The step; some layers are swapped.

    Raises:
        ValueError: No step with a swapped layer keeps to the budget, or full attention does.
    """
    if number is not None:
        if not 1 <= number < len(found):
            raise ValueError(f'--number must be from 1 to {len(found) - 1} layers, got {number}')
        return found[number]
    if budget_ms is not None:
        if found[0]['ms'] <= budget_ms:
            raise ValueError(
                f'--budget-ms {budget_ms:g}: full attention in all layers takes '
                f'{found[0]["ms"]:.3g} ms; there is nothing to swap'
            )
        within = [step for step in found if step['ms'] <= budget_ms]
        if not within:
            least = min(step['ms'] for step in found)
            raise ValueError(
                f'--budget-ms {budget_ms:g} cannot be kept: {least:.3g} ms is the least that the '
                "encoder's attention takes, whatever layers are swapped"
            )
        return within[0]
    within = [step for step in found[1:] if step[f'{by}_drop'] <= max_drop]
    if not within:
        least = min(step[f'{by}_drop'] for step in found[1:])
        raise ValueError(
            f'--max-drop {max_drop:g} cannot be kept: the least drop by {by} is {least:.3g}'
        )
    return within[-1]


def with_layers(cfg, chosen):
    """A config with MiTA attention in some layers of the encoder and full attention in the others.

    Args:
        cfg (Config): The config, whose ``model.backbone.attn_cfg`` has MiTA attention in all of
            them; not changed.
        chosen (list[int]): Numbers of layers.

    Returns:
        Config: Another one with a list in ``model.backbone.attn_cfg``.
    """
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone.attn_cfg = [
        one if number in chosen else _in_full(one) for number, one in enumerate(_by_layer(cfg))
    ]
    return cfg


def with_options(cfg, options):
    """A config with further options of the attention of some layers of the encoder.

    Args:
        cfg (Config): The config; not changed.
        options (dict[int, dict]): Options by the number of the layer.

    Returns:
        Config: Another one with a list in ``model.backbone.attn_cfg``.
    """
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone.attn_cfg = [
        {**one, **options.get(number, {})} for number, one in enumerate(_by_layer(cfg))
    ]
    return cfg


def _by_layer(cfg):
    """The configs of the attention of all layers of the encoder."""
    backbone = cfg.model.backbone
    given = backbone.get('attn_cfg') or {'type': 'MiTAAttention'}
    each = given if isinstance(given, list | tuple) else [given] * backbone.get('num_layers', 12)
    return [dict(one) for one in each]


def _in_full(attn_cfg):
    """Full attention with what has parameters in an attention."""
    options = {'type': 'FullAttention'}
    for name, value in attn_cfg.items():
        try:
            check_options(FullAttention, [name])
        except TypeError:
            continue
        options[name] = value
    return options
