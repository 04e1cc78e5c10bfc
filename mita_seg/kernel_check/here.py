"""What this machine would use, and why: what an issue report needs."""

import importlib.util
from importlib import metadata

import torch

from mita_seg.ops.attention import torch_backend
from mita_seg.ops.triton.gpu import gpu_of
from mita_seg.ops.triton.support import unsupported_reason


def describe_here() -> str:
    """A few lines: GPUs, versions, and the backend that ``'auto'`` takes for the usual call."""
    devices = [torch.device('cuda', i) for i in range(torch.cuda.device_count())]
    return '\n'.join(
        [
            _describe_versions(),
            *(line for device in devices for line in _describe_gpu(device)),
            *([] if devices else ['GPU: none that torch finds', _describe_backend('cpu')]),
        ]
    )


def _describe_versions() -> str:
    triton = 'Triton is not installed'
    if importlib.util.find_spec('triton'):
        from mita_seg.ops.triton.call_plan import knows_launcher

        how = 'recorded' if knows_launcher() else 'not recorded, as its launcher was not tried'
        triton = f'Triton {metadata.version("triton")}, whose launches are {how}'
    cuda = f'CUDA {torch.version.cuda}' if torch.version.cuda else 'no CUDA'
    return f'torch {torch.__version__} ({cuda}); {triton}'


def _describe_gpu(device):
    gpu = gpu_of(device)
    yield (
        f'GPU {device.index}: {torch.cuda.get_device_name(device)}, compute capability '
        f'{gpu.capability / 10}, {gpu.shared_memory // 1024} KiB of shared memory per program, '
        f'{gpu.multiprocessors} multiprocessors'
    )
    yield _describe_backend(device)


def _describe_backend(device) -> str:
    query = torch.empty(1, 1, 1024, 64, dtype=torch.bfloat16, device=device)
    reason = unsupported_reason(query, 49, 49)
    if reason is None:
        return "backend='auto' takes triton"
    name = torch_backend(query)
    return f"backend='auto' takes {name} for 1,024 tokens: triton can't run, as {reason}"
