"""The exported program, which all formats are made of."""

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, export


def export_program(
    model: nn.Module, channels: int, size: tuple[int, int], step: int | None = None
) -> ExportedProgram:
    """Export a model of images [B, channels, H, W] for every batch, and every size if asked to.

    Args:
        model: In eval mode.
        channels: Of the images.
        size: Height and width of the images, pixels.
        step: Take all sizes that are multiples of it, from twice it on; `size` alone if None.

    Raises:
        ValueError: PyTorch's exporter does not take the model.
    """
    shapes = {0: Dim('batch', min=1)}
    if step is not None:
        shapes |= {2: step * Dim('rows', min=2), 3: step * Dim('columns', min=2)}
    # Of one image, the batch would become a constant.
    images = torch.zeros(2, channels, *size)
    try:
        with torch.no_grad():
            return export(model, (images,), dynamic_shapes=(shapes,))
    # Whatever the code of a model does not let be traced.
    except Exception as error:
        sizes = 'one image size' if step is None else 'every image size'
        reason = ' '.join(str(error).split())[:300]
        raise ValueError(
            f'torch.export does not take the model with {sizes}: {type(error).__name__}: {reason}'
        ) from error
