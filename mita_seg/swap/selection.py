"""Which attention modules of a model are meant."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from .families import loaded_families
from .families.adapter import Adapter
from .unknown import find_unknown

_BIAS_TABLE = 'relative_position_bias_table'


@dataclass
class Found:
    """An attention module in a model.

    Args:
        name: Its name there, as in ``named_modules()``.
        module: The module.
        adapter: Swaps and restores it.
        ancestors: The modules around it, from the model down.
    """

    name: str
    module: nn.Module
    adapter: Adapter
    ancestors: tuple[nn.Module, ...]

    def refusal(self) -> str | None:
        """Why it can't be swapped; None if it can."""
        return self.adapter.refusal(self.module, self.name.rpartition('.')[2], self.ancestors)


def find_attention(model: nn.Module) -> list[Found]:
    """The attention modules of a model that some family knows, swapped ones included, in order."""
    families = loaded_families()
    adapters = [family.ADAPTER for family in families if hasattr(family, 'ADAPTER')]
    return list(_walk(model, '', (), adapters, set()))


def _walk(
    module: nn.Module,
    name: str,
    ancestors: tuple[nn.Module, ...],
    adapters: list[Adapter],
    visited: set[nn.Module],
) -> Iterator[Found]:
    if module in visited:  # shared between two places of the model
        return
    visited.add(module)
    for adapter in adapters:
        if adapter.owns(module):
            yield Found(name, module, adapter, ancestors)
            return  # whatever attention it wraps is its own affair
    for child_name, child in module.named_children():
        full_name = f'{name}.{child_name}' if name else child_name
        yield from _walk(child, full_name, (*ancestors, module), adapters, visited)


def select_attention(
    model: nn.Module, layers: int | str | Sequence[int | str] | None
) -> list[Found]:
    """The attention modules that `layers` of :func:`mita_seg.swap_attention` means.

    Raises:
        TypeError: `layers` has something other than ints and strings.
        ValueError: It means none or one that can't be swapped; the message says why.
    """
    found = find_attention(model)
    if layers is None:
        _check_that_all_may_go(model, found)
        chosen = found
    else:
        wanted = [layers] if isinstance(layers, int | str) else list(layers)
        names = {one.name for layer in wanted for one in _matching(model, found, layer)}
        chosen = [one for one in found if one.name in names]
    if refusal := _first_refusal(chosen):
        raise ValueError(f'{refusal} (choose others by layers=)')
    return chosen


def _check_that_all_may_go(model: nn.Module, found: list[Found]) -> None:
    """Refuse to swap a part of a model's self-attention where all of it is meant.

    Raises:
        ValueError: There is none, some has a bias table, or some is not known here and comes before
            some that is: what follows the encoder may stay as it is, the encoder may not.
    """
    if biased := _biased(model):
        table = 'a table of relative position biases'
        raise ValueError(
            f'{_named(biased)} {f"adds {table}" if len(biased) == 1 else f"add {table} each"}, '
            f'which landmarks cannot carry (choose others by layers=)'
        )
    unknown = find_unknown(model, (one.module for one in found))
    if not any(one.refusal() is None for one in found):
        reasons = [f'not known here: {_named(unknown)}'] if unknown else []
        reasons += [str(_first_refusal(found))] if found else []
        why = f' ({"; ".join(reasons)})' if reasons else ''
        raise ValueError(f'{type(model).__name__} has no self-attention that can be swapped{why}')
    place = {module: index for index, module in enumerate(model.modules())}
    last = place[found[-1].module]
    if passed_over := {name: one for name, one in unknown.items() if place[one] < last}:
        raise ValueError(
            f'swap_attention would leave out what it does not know, {_named(passed_over)}, and '
            f'swap {_a_few([one.name for one in found])} alone (if that is meant, choose it by '
            f'layers=)'
        )


def _matching(model: nn.Module, found: list[Found], layer: int | str) -> list[Found]:
    if isinstance(layer, str):
        matching = [one for one in found if f'{one.name}.'.startswith(f'{layer}.')]
        if matching:
            return matching
        biased = any(f'{name}.'.startswith(f'{layer}.') for name in _biased(model))
        reason = 'adds a table of relative position biases' if biased else 'is or holds none'
        raise ValueError(
            f'layers must name self-attention that can be swapped, got {layer!r}, which {reason} '
            f'(there is {_a_few([one.name for one in found]) or "none"})'
        )
    if not isinstance(layer, int) or isinstance(layer, bool):
        raise TypeError(f'layers must hold ints and names of modules, got {layer!r}')
    if not -len(found) <= layer < len(found):
        raise ValueError(
            f'layers must be from {-len(found)} to {len(found) - 1} in this model, got {layer}'
        )
    return [found[layer]]


def _biased(model: nn.Module) -> dict[str, nn.Module]:
    """Modules with a bias table (Swin, BEiT, MMSegmentation's MAE)."""
    return {
        name: module
        for name, module in model.named_modules()
        if getattr(module, _BIAS_TABLE, None) is not None
    }


def _first_refusal(chosen: list[Found]) -> str | None:
    refused = [one for one in chosen if one.refusal()]
    if not refused:
        return None
    first = refused[0]
    more = f', and {len(refused) - 1} more cannot be swapped' if len(refused) > 1 else ''
    return f'{first.name or type(first.module).__name__} {first.refusal()}{more}'


def _named(modules: dict[str, nn.Module]) -> str:
    return _a_few([f'{name} ({type(module).__name__})' for name, module in modules.items()])


def _a_few(names: list[str]) -> str:
    more = len(names) - 3
    return ', '.join(names[:3]) + (f' and {more} more' if more > 0 else '')
