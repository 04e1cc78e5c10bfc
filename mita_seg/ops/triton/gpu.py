"""The GPU of a call: what sizes of blocks depend on. Needs no Triton."""

import functools
from typing import NamedTuple

import torch


class Gpu(NamedTuple):
    """What the kernels have to know of a GPU."""

    capability: int  # compute capability, ten times the major number plus the minor
    shared_memory: int  # bytes that one program may use
    multiprocessors: int


# A GPU of each architecture that tools/check_kernels.py knows. Source: CUDA C++ Programming Guide,
# technical specifications per compute capability, and NVIDIA's data sheets.
ARCHITECTURES = {
    80: Gpu(80, 163 * 1024, 108),  # A100
    86: Gpu(86, 99 * 1024, 82),  # RTX 3090
    89: Gpu(89, 99 * 1024, 128),  # RTX 4090
    90: Gpu(90, 227 * 1024, 132),  # H100
    100: Gpu(100, 227 * 1024, 148),  # B200
    120: Gpu(120, 99 * 1024, 170),  # RTX 5090
}
LEAST_CAPABILITY = 80  # mma.sync of bfloat16, and cp.async
LEAST_SHARED_MEMORY = min(gpu.shared_memory for gpu in ARCHITECTURES.values())

_emulated: Gpu | None = None  # see treat_gpus_as


def gpu_of(device: torch.device) -> Gpu:
    """The GPU of a device; an H100 where there is none, as under Triton's interpreter."""
    if device.type != 'cuda':
        return _emulated or ARCHITECTURES[90]
    gpu = _look_up(device.index or 0)
    if _emulated:
        return _emulated._replace(multiprocessors=gpu.multiprocessors)
    return gpu


def treat_gpus_as(gpu: Gpu | None) -> None:
    """From now on use the sizes of blocks of another GPU; None: of the GPU that is there."""
    global _emulated
    _emulated = gpu


@functools.cache
def _look_up(index: int) -> Gpu:
    properties = torch.cuda.get_device_properties(index)
    return Gpu(
        10 * properties.major + properties.minor,
        getattr(properties, 'shared_memory_per_block_optin', 0),
        properties.multi_processor_count,
    )
