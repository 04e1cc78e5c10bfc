"""Writing converted weights to a file."""

import io
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mita_seg.utils.files import replacing

from .position_embedding import grids_to_text

ENDINGS = ('.safetensors', '.pth')


def write_weights(
    weights: Mapping[str, Tensor], path: str | os.PathLike, meta: Mapping | None = None
) -> None:
    """Write weights so that MMEngine, MMSegmentation and our models read them.

    The file appears whole or not at all.

    Args:
        weights: Weights by name.
        path: Ends in ``.safetensors``, or in ``.pth`` for a dict with ``state_dict`` and ``meta``.
        meta: What MMEngine keeps beside the weights, such as class names; ``.pth`` only.

    Raises:
        OSError: The disk is full, for example.
    """
    # Slices of a larger tensor would be written with all of it.
    own = OrderedDict(
        (name, value.clone(memory_format=torch.contiguous_format))
        for name, value in weights.items()
    )
    if hasattr(weights, '_metadata'):
        vars(own)['_metadata'] = weights._metadata
    with replacing(path, 'wb') as file:
        if Path(path).suffix == '.safetensors':
            from safetensors.torch import save

            file.write(save(own, metadata={'format': 'pt', **grids_to_text(own)}))
        else:
            content = io.BytesIO()
            torch.save({'meta': dict(meta or {}), 'state_dict': own}, content)
            file.write(content.getbuffer())  # unlike torch, it says why it fails
