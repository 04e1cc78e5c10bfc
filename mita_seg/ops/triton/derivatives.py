"""The kernels under torch.func, and gradients of gradients.

Gradients are the kernels' there too; those of gradients come from torch operations.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.func import vjp

from ..autocast import without_autocast
from ..options import MiTAOptions
from ..pooling import pool_in_torch
from ..tiled import tiled_attention


def differentiate_gradients(
    cotangents: Sequence[Tensor],
    grad: Tensor,
    inputs: Sequence[Tensor | None],
    options: MiTAOptions,
) -> list[Tensor | None]:
    """Gradients of the gradients that the kernels compute.

    Args:
        cotangents: Gradients of the gradients of query, key, value and, if given, landmarks.
        grad: The gradient of the output that those came from.
        inputs: query, key, value, landmarks; landmarks are None where they are pooled.
        options: What the operator computes.

    Returns:
        Gradients of `grad` and of the four inputs; None of landmarks that are pooled.
    """

    def attend(
        query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor | None = None
    ) -> Tensor:
        if landmarks is None:
            assert options.pooling is not None
            landmarks = pool_in_torch(query, options.pooling)
        return tiled_attention(query, key, value, landmarks, options)

    def differentiate(grad: Tensor, *given: Tensor) -> Sequence[Tensor]:
        return vjp(attend, *given)[1](grad)

    given = [each for each in inputs if each is not None]
    with without_autocast(grad.device.type):
        gradients = vjp(differentiate, grad, *given)[1](tuple(cotangents))
    return [*gradients] if inputs[-1] is not None else [*gradients, None]
