"""The time below which no attention can go: that of moving its inputs and its output."""

import torch

from .cases import HEAD_DIM
from .timing import Timer, medians

_COPIED_BYTES = {'cuda': 2**30, 'cpu': 2**28}  # far more than the caches hold


def copy_rate(device, rounds):
    """Bytes read plus bytes written a second by a large copy within the device.

    Args:
        device (torch.device): The device.
        rounds (int): Samples, of which the median counts.
    """
    size = _COPIED_BYTES[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timer = Timer(lambda: target.copy_(source), device)
    return 2 * size / medians({'copy': timer}, rounds)['copy']


def forward_floor(case, dtype, rate):
    """Seconds to read query, key and value once and to write the output once.

    Args:
        case (Case): The sizes.
        dtype (torch.dtype): Of all four.
        rate (float): Bytes read plus written a second.
    """
    return 4 * case.heads * case.tokens * HEAD_DIM * dtype.itemsize / rate
