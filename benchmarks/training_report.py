"""The table of ``results.md`` on training loops."""

from .formats import NOTHING, format_filled, format_number, format_ratio, list_dropouts

_METHOD = (
    'The training loop of MMEngine on the data of the config: loading, augmentation, optimizer, '
    'schedule and logging included; validation, checkpoints and pretrained weights left out. '
    'Figures are those of the second half of the iterations. The device is waited for at both ends '
    'of that half alone; `ms` is the mean. Waiting for data is the median. A ratio compares with '
    'the first config: above 1x is faster. Memory: peak of the CUDA allocator, the first iteration '
    'left out. The loss is that of the last one.'
)


def describe_training(rows, environment):
    """Make the section on training loops.

    Args:
        rows (Sequence[dict]): From :func:`~benchmarks.training.benchmark_training`.
        environment (dict): Not used; other sections need it.

    Returns:
        list[str]: Paragraphs of Markdown.
    """
    first = rows[0]['iteration_ms']
    table = [['config', 'batch', 'iterations', 'ms', 'ratio', 'data ms', 'memory MiB', 'loss']]
    for row in rows:
        time = row['iteration_ms']
        cells = [row['config'], str(row['batch']), str(row['iterations']), format_number(time)]
        cells += [format_ratio(first / time if first and time else None)]
        cells += [format_number(row['data_wait_ms']), format_number(row['peak_bytes'], 2**20)]
        cells += [NOTHING if row['last_loss'] is None else f'{row["last_loss"]:.4g}']
        table.append(cells)
    return [
        format_filled(table),
        *list_dropouts(rows, '{config}', '{iterations} iterations'),
        _METHOD,
    ]
