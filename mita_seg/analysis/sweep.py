"""Testing one trained model with other numbers of landmarks and keys."""

from matplotlib.figure import Figure

from mita_seg.ops.validation import check_experts, check_pair
from mita_seg.utils.files import save_figure

from .observe import mita_layers


def check_sweep(model, landmarks, topks):
    """Check that every layer can run with every combination.

    Args:
        model (nn.Module): The model, with MiTA attentions.
        landmarks (Sequence[tuple[int, int]]): Landmark grids (mh, mw).
        topks (Sequence[int]): Keys per expert.

    Raises:
        ValueError: A number is out of range, or the model has no MiTA attention.
    """
    for layer in mita_layers(model).values():
        for grid in landmarks:
            check_pair('landmarks', grid)
            for topk in topks:
                num_landmarks = grid[0] * grid[1]
                check_experts(topk, layer.num_routed, num_landmarks, layer.shared, layer.remainder)


def sweep_experts(evaluate, model, landmarks, topks):
    """Evaluate a model with every combination; its own settings are restored afterwards.

    Args:
        evaluate (Callable): Evaluates the model as it is then; returns its metrics.
        model (nn.Module): The model, with MiTA attentions.
        landmarks (Sequence[tuple[int, int]]): Landmark grids (mh, mw).
        topks (Sequence[int]): Keys per expert.

    Yields:
        dict: ``landmarks``, ``topk`` and ``mIoU`` (percent).
    """
    layers = mita_layers(model).values()
    trained = [(layer, layer.landmarks, layer.topk) for layer in layers]
    try:
        for grid in landmarks:
            for topk in topks:
                for layer in layers:
                    layer.landmarks, layer.topk = tuple(grid), topk
                metrics = evaluate()
                yield {'landmarks': list(grid), 'topk': topk, 'mIoU': float(metrics['mIoU'])}
    finally:
        for layer, grid, topk in trained:
            layer.landmarks, layer.topk = grid, topk


def draw_sweep(cells, trained, path):
    """Draw a heat map: landmarks down, keys per expert across, mIoU in the cells.

    Args:
        cells (Sequence[dict]): What `sweep_experts` yields, every combination.
        trained (tuple): Landmark grid and top-k of training; framed if it is among the cells.
        path (Path): The PNG file.

    Returns:
        Path: The file.
    """
    grids = sorted({tuple(cell['landmarks']) for cell in cells}, key=lambda grid: grid[0] * grid[1])
    topks = sorted({cell['topk'] for cell in cells})
    found = {(tuple(cell['landmarks']), cell['topk']): cell['mIoU'] for cell in cells}
    table = [[found[grid, topk] for topk in topks] for grid in grids]
    figure = Figure(figsize=(1.6 + 0.8 * len(topks), 1.4 + 0.55 * len(grids)), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(table, cmap='viridis', aspect='auto')
    middle = (image.norm.vmin + image.norm.vmax) / 2
    for row, values in enumerate(table):
        for column, value in enumerate(values):
            axes.text(
                column,
                row,
                f'{value:.1f}',
                ha='center',
                va='center',
                color='white' if value < middle else 'black',
                bbox={'fill': False, 'edgecolor': 'red', 'linewidth': 1.5}
                if (grids[row], topks[column]) == trained
                else None,
            )
    axes.set_xticks(range(len(topks)), topks)
    axes.set_yticks(range(len(grids)), [f'{h}x{w} = {h * w}' for h, w in grids])
    axes.set_xlabel('keys per expert, k')
    axes.set_ylabel('landmarks, m')
    axes.set_title('mIoU (%); framed: as trained', fontsize=10)
    figure.colorbar(image)
    return save_figure(figure, path)
