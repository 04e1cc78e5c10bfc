"""How much memory a function takes."""

from contextlib import nullcontext

import torch


def peak_extra_bytes(function, device, scope=nullcontext):
    """Peak of the CUDA allocator during one call, beyond what was allocated before it.

    What the function returns counts. A first call, not measured, leaves behind what is allocated
    once only, such as workspaces.

    Args:
        function (Callable[[], Any]): What is measured.
        device (torch.device): Where it works.
        scope (Callable[[], ContextManager]): Makes the context in which it is called.

    Returns:
        int | None: Bytes; None on devices whose allocator does not keep count.
    """
    if device.type != 'cuda':
        return None
    with scope():
        function()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = function()  # held until the peak is read
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    del result
    return peak - before
