"""Markdown tables that line up in plain text too."""


def format_table(rows):
    """Lay out a table.

    Args:
        rows (Sequence[Sequence[str]]): The head and the rows below it, alike in length.

    Returns:
        str: Markdown, without a newline at the end.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        '| ' + ' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + ' |'
        for row in rows
    ]
    rule = '|' + '|'.join('-' * (width + 2) for width in widths) + '|'
    return '\n'.join([lines[0], rule, *lines[1:]])
