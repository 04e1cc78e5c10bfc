"""Compiling a launch for a GPU that need not be there, with the assembler in Triton's wheel."""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from .launches import Launch

_USAGE = re.compile(r'REG:(\d+) STACK:(\d+)')


class Resources(NamedTuple):
    """What one program of a compiled kernel takes."""

    shared: int  # bytes of shared memory
    registers: int  # per thread
    spills: int  # registers per thread that are kept in memory, of 4 bytes


class _Driver:
    """What Triton asks of a GPU's driver while it compiles, for any architecture."""

    def __init__(self, architecture: int):
        self._architecture = architecture

    def get_current_device(self):
        return self._architecture  # compiled kernels are kept by device

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget('cuda', self._architecture, 32)

    def get_active_torch_device(self):
        return torch.device('cpu')


def compile_launch(launch: Launch, architecture: int) -> Resources:
    """Compile one launch for an architecture such as 80; needs no GPU.

    Raises:
        Exception: Whatever Triton or ptxas raise where they can't.
    """
    driver.set_active(_Driver(architecture))
    compiled = launch.kernel.warmup(*launch.args, grid=(1,), **launch.options)
    registers, stack = _read_usage(compiled.asm['cubin'])
    return Resources(compiled.metadata.shared, registers, stack // 4)


def _read_usage(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes of its stack, to which registers are spilled."""
    tool = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(cubin)
        file.flush()
        command = [tool, '--dump-resource-usage', file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    registers, stack = map(int, _USAGE.search(text).groups())
    return registers, stack
