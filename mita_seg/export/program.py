"""The exported program, which all formats are made of."""

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, export

_MOST = 2**20  # images, and steps a side


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
    # Torch 2.7 takes a size without an end for one that may be the largest number.
    shapes = {0: Dim('batch', min=1, max=_MOST)}
    if step is not None:
        rows, columns = (Dim(side, min=2, max=_MOST) for side in ('rows', 'columns'))
        shapes |= {2: step * rows, 3: step * columns}
    # Of one image, the batch would become a constant.
    images = torch.zeros(2, channels, *size)
    try:
        with torch.no_grad():
            return export(model, (images,), dynamic_shapes=(shapes,), strict=False)
    # Whatever the code of a model does not let be traced.
    except Exception as error:
        sizes = 'one image size' if step is None else 'every image size'
        reason = ' '.join(str(error).split())[:300]
        raise ValueError(
            f'torch.export does not take the model with {sizes}: {type(error).__name__}: {reason}'
        ) from error
