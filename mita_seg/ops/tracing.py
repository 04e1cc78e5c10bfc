"""The operators as single nodes of a torch.jit trace.

MMEngine counts FLOPs by the names of the nodes in such a trace. As one node, an operator has the
same count whatever backend runs it.

A file that ``torch.jit.save`` writes has these nodes. Before it is loaded, ``import mita_seg.ops``
is needed, and it works for the image size of the trace alone. Files of torch.export and
torch.onnx.export do not need this package, see :mod:`mita_seg.ops.exporting`.
"""

from typing import Any

from torch import Tensor, library
from torch.nn.functional import adaptive_avg_pool2d

from .options import SCHEMA, from_scalars
from .tiled import tiled_attention


@library.custom_op(
    'mita_seg::mita_attention',
    mutates_args=(),
    schema=f'(Tensor query, Tensor key, Tensor value, Tensor landmarks, *, {SCHEMA}) -> Tensor',
)
def traced_attention(
    query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor, **scalars: Any
) -> Tensor:
    """MiTA attention without autograd; the options as numbers, see :func:`.options.to_scalars`."""
    return tiled_attention(query, key, value, landmarks, from_scalars(**scalars))


@library.custom_op('mita_seg::pool_landmarks', mutates_args=())
def traced_pooling(patch_map: Tensor, height: int, width: int) -> Tensor:
    """Adaptive average pooling [B, C, h, w] -> [B, C, height, width] without autograd."""
    return adaptive_avg_pool2d(patch_map, (height, width))
