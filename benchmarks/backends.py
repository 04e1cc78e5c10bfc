"""What the operator benchmark compares: backends of full and of MiTA attention."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from mita_seg.ops import pooled_mita_attention

from .cases import Case

FULL, MITA = 'full', 'mita'
_SDPA = {
    'flash': SDPBackend.FLASH_ATTENTION,
    'cudnn': SDPBackend.CUDNN_ATTENTION,
    'efficient': SDPBackend.EFFICIENT_ATTENTION,
    'math': SDPBackend.MATH,
}
_MITA = ('triton', 'masked', 'tiled', 'reference')


class Backend(NamedTuple):
    """One way to compute full or MiTA attention.

    Attributes:
        name: As on the command line.
        attention: Which attention it computes, ``FULL`` or ``MITA``.
        attend: Called with query, key, value, each [1, heads, N, d], and the case.
        scope: Makes the context in which it has to be called.
    """

    name: str
    attention: str
    attend: Callable[[Tensor, Tensor, Tensor, Case], Tensor]
    scope: Callable[[], AbstractContextManager] = nullcontext


def _attend_fully(query: Tensor, key: Tensor, value: Tensor, case: Case) -> Tensor:
    return scaled_dot_product_attention(query, key, value)


def _attend_to_experts(backend: str, query: Tensor, key: Tensor, value: Tensor, case: Case):
    return pooled_mita_attention(
        query, key, value, case.grid, case.landmark_grid, topk=case.topk, backend=backend
    )


BACKENDS = {
    'sdpa': Backend('sdpa', FULL, _attend_fully),  # torch's own choice
    **{
        name: Backend(name, FULL, _attend_fully, partial(sdpa_kernel, backend))
        for name, backend in _SDPA.items()
    },
    **{name: Backend(name, MITA, partial(_attend_to_experts, name)) for name in _MITA},
}


def choose_backends(
    names: Iterable[str] | None, device: torch.device, dtype: torch.dtype
) -> list[Backend]:
    """Look up backends by name.

    Args:
        names: The names; None for those worth comparing on the device in that dtype.
        device: Where they will run.
        dtype: Of their inputs.

    Raises:
        ValueError: An unknown name.
    """
    if names is None:
        if device.type != 'cuda':
            names = ('sdpa', 'tiled')
        elif dtype == torch.float32:  # which flash and cuDNN don't take
            names = ('efficient', 'triton', 'masked', 'tiled')
        else:
            names = ('flash', 'cudnn', 'triton', 'masked', 'tiled')
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in BACKENDS:
            raise ValueError(f'backend must be one of {", ".join(BACKENDS)}, got {name!r}')
    return [BACKENDS[name] for name in names]
