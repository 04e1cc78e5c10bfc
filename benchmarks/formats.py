"""How figures look in ``results.md``, and tables without empty columns."""

from mita_seg.utils.tables import format_table

from .outcome import OK

NOTHING = '-'


def format_number(value, divisor=1):
    """A figure with a decimal below 100; None is a dash."""
    if value is None:
        return NOTHING
    value /= divisor
    return f'{value:,.0f}' if value >= 100 else f'{value:.1f}'


def format_ratio(value):
    """Such as ``1.25x``; None is a dash."""
    return NOTHING if value is None else f'{value:.2f}x'


def format_error(value):
    """Such as ``2.1e-03``; None is a dash."""
    return NOTHING if value is None else f'{value:.1e}'


def format_filled(table):
    """Format a table without the columns that hold nothing."""
    columns = [column for column in zip(*table, strict=True) if set(column[1:]) != {NOTHING}]
    return format_table(list(zip(*columns, strict=True)))


def list_dropouts(rows, who, where):
    """List who was not measured, why and where.

    Args:
        rows (Sequence[dict]): With ``status`` and ``reason``.
        who, where (str): Templates that are filled from a row.

    Returns:
        list[str]: A Markdown list, or nothing.
    """
    places = {}
    for row in rows:
        if row['status'] != OK:
            line = f'- {who.format(**row)}: {row["status"]}: {row["reason"]}'
            places.setdefault(line, []).append(where.format(**row))
    lines = [f'{line} ({"; ".join(found)})' for line, found in places.items()]
    return ['\n'.join(lines)] if lines else []
