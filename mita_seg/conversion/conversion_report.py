"""What a conversion did, in lines of text."""

from .conversion import Conversion


def report_lines(conversion: Conversion) -> list[str]:
    """Tell every name used, unused and missing, the settings and the notes.

    Args:
        conversion: A finished conversion.

    Returns:
        Lines without ends.
    """
    used = [
        f'{", ".join(conversion.origins[name])} -> {name} {list(value.shape)}'
        for name, value in conversion.weights.items()
    ]
    unused = [f'{name} ({why})' for name, why in conversion.unused.items()]
    missing = [f'{name} ({hint})' for name, hint in conversion.missing.items()]
    lines = [f'source: {conversion.source}']
    sections = {
        'used': used,
        'used, but not by the models of mita_seg': conversion.foreign,
        'beside the weights, left aside': conversion.left_aside,
        'unused': unused,
        'missing': missing,
        'notes': conversion.notes,
    }
    for title, entries in sections.items():
        lines += [f'{title}: {len(entries) or "none"}', *(f'    {entry}' for entry in entries)]
    if conversion.settings:
        settings = ', '.join(f'{name}={value!r}' for name, value in conversion.settings.items())
        lines.append(f'for a backbone with {settings}')
    return lines
