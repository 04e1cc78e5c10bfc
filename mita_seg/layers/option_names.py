"""Options that a constructor takes, and a sentence for those that it does not."""

import inspect
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches


def check_options(
    kind: Callable, names: Iterable[str], *, where: str = '', settled: Collection[str] = ()
) -> None:
    """Refuse options that a class or function does not take.

    Args:
        kind: The class or function. One of others that takes any keyword argument is not checked.
        names: Names of the options.
        where: What the options are part of, such as ``'attn_cfg'``.
        settled: Options that are given anyway and need not be offered.

    Raises:
        TypeError: There is one; the message names it, the closest and all others.
    """
    known, all_known = _options(kind)
    unknown = [name for name in names if name not in known]
    if unknown and all_known:
        raise TypeError(describe_unknown(kind, unknown, where=where, settled=settled))


def describe_unknown(
    kind: Callable, unknown: Iterable[str], *, where: str = '', settled: Collection[str] = ()
) -> str:
    """The sentence about options that a class or function does not take."""
    known = [name for name in _options(kind)[0] if name not in settled]
    described = []
    for name in unknown:
        close = get_close_matches(name, known, n=1, cutoff=0.5)
        described.append(f'{name!r}' + (f' (did you mean {close[0]!r}?)' if close else ''))
    subject = f'{where}: {kind.__name__}' if where else kind.__name__
    return f'{subject} has no option {", ".join(described)}; it has {", ".join(known)}'


def _options(kind: Callable) -> tuple[list[str], bool]:
    """Names of the options of a class or function, and whether these are all."""
    if not inspect.isclass(kind):
        names, more = _keywords(kind)
        return names, not more
    known, all_known = [], True
    for base in kind.__mro__:
        if '__init__' not in vars(base):
            continue
        names, more = _keywords(vars(base)['__init__'])
        known += [name for name in names if name != 'self' and name not in known]
        if not more:
            break
        # Ours hand the others on to their base class. Who knows what those of others do.
        all_known = all_known and base.__module__.startswith('mita_seg.')
    return known, all_known


def _keywords(function: Callable) -> tuple[list[str], bool]:
    """Names of a function's keyword arguments, and whether it takes any others.

    Those collected as ``**unknown`` it refuses.
    """
    parameters = inspect.signature(function).parameters.values()
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [parameter.name for parameter in parameters if parameter.kind in by_name]
    others = [one.name for one in parameters if one.kind is inspect.Parameter.VAR_KEYWORD]
    return names, bool(others) and others != ['unknown']
