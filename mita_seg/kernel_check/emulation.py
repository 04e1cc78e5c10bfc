"""Running on the GPU that is there what Triton compiles for another architecture.

Triton compiles as for the other architecture down to PTX, which is then assembled for this GPU: the
same products and copies, exact in their results, and a fair lead for the speed of GPUs that are not
there. Instructions that this GPU lacks can't be run that way.
"""

import os
from pathlib import Path

import torch
from triton import knobs
from triton.backends.nvidia import compiler

from mita_seg.ops.triton.gpu import ARCHITECTURES, treat_gpus_as


def compile_as(architecture: int) -> None:
    """From now on all kernels are compiled as for this architecture, with its sizes of blocks.

    To be called before the first kernel is compiled. The assembled code is not that of the GPU, so
    Triton keeps it in a folder of its own, inside that of ordinary runs.

    Args:
        architecture: Such as 80, of :data:`mita_seg.ops.triton.gpu.ARCHITECTURES`.

    Raises:
        ValueError: An architecture that is not known, or whose code the GPU can't run.
    """
    if architecture not in ARCHITECTURES:
        known = ', '.join(map(str, ARCHITECTURES))
        raise ValueError(
            f'the architecture to compile as must be one of {known}; got {architecture}'
        )
    if not torch.cuda.is_available():
        raise ValueError(
            f'what is compiled as for sm_{architecture} runs on a CUDA device, and torch finds none'
        )
    major, minor = torch.cuda.get_device_capability()
    own = 10 * major + minor
    if architecture == 100 and own != 100:
        raise ValueError(f"code for sm_100 multiplies in ways of its own; sm_{own} can't run it")
    treat_gpus_as(ARCHITECTURES[architecture])
    cache = os.environ.get('TRITON_CACHE_DIR') or Path.home() / '.triton' / 'cache'
    os.environ['TRITON_CACHE_DIR'] = str(Path(cache) / f'compiled_as_{architecture}')
    knobs.runtime.override_arch = f'sm{architecture}'
    name_of = compiler.sm_arch_from_capability
    make_ptx = compiler.CUDABackend.make_ptx
    # LLVM may use what the other architecture has, unless it is newer than this GPU.
    llvm = min(architecture, own)

    def assembled_as(capability):
        return name_of(own if capability == architecture else capability)

    def make_ptx_as(self, source, metadata, options, capability):
        compiler.sm_arch_from_capability = name_of
        try:
            return make_ptx(self, source, metadata, options, llvm)
        finally:
            compiler.sm_arch_from_capability = assembled_as

    compiler.sm_arch_from_capability = assembled_as
    compiler.CUDABackend.make_ptx = make_ptx_as
