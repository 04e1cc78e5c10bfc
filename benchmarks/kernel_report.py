"""The tables of ``results.md`` on the kernels."""

from .cases import CASE_TITLE
from .formats import format_filled, format_number, format_ratio, list_dropouts
from .outcome import OK

_METHOD = (
    "Microseconds on the device by torch's profiler: medians over eager calls, all launches of a "
    'kernel in a call together; `graph us` is a replay of the CUDA graph of the pass. Read and '
    'written are the bytes that a kernel has to move, each once; the floor is the time of a large '
    'copy of as many, '
    '{rate:,.0f} GB/s read plus written in this run. What the kernel before left in the cache is '
    'read faster than that, so that a ratio can be below 1x. Kernels without a floor are not ours; '
    'sums of bytes and floors leave them out.'
)


def describe_kernels(rows, environment):
    """Make the section on the kernels.

    Args:
        rows (Sequence[dict]): From :func:`~benchmarks.kernels.benchmark_kernels`.
        environment (dict): With ``copy_gb_per_s``.

    Returns:
        list[str]: Paragraphs of Markdown.
    """
    tables = {}
    head = ['pass', 'kernel', 'launches', 'us', 'graph us', 'KiB read', 'KiB written']
    for row in rows:
        if row['status'] != OK:
            continue
        title = CASE_TITLE.format(**row)
        table = tables.setdefault(title, [[*head, 'floor us', '/ floor']])
        cells = [row['pass'].replace('_', ' and '), row['kernel'], f'{row["launches"]:g}']
        cells += [format_number(row['time_us']), format_number(row['graph_us'])]
        cells += [format_number(row[f'{way}_bytes'], 2**10) for way in ('read', 'written')]
        cells += [format_number(row['floor_us']), format_ratio(row['time_over_floor'])]
        table.append(cells)
    parts = [f'Precision: {rows[0]["dtype"]}.']
    for title, table in tables.items():
        parts += [f'### {title}', format_filled(table)]
    return [
        *parts,
        *list_dropouts(rows, 'triton', CASE_TITLE),
        _METHOD.format(rate=environment['copy_gb_per_s']),
    ]
