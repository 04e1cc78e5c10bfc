"""What the launches share."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

LOG2E = math.log2(math.e)  # the kernels compute exp2


def cdiv(dividend: int, divisor: int) -> int:
    """Quotient, rounded up."""
    return -(dividend // -divisor)


def next_power_of_2(number: int) -> int:
    """The least power of 2 that is at least `number`, which is positive."""
    return 1 << (number - 1).bit_length()


def precision(dtype: torch.dtype) -> str:
    """float32 stays IEEE: no TF32 on the tensor cores."""
    return 'ieee' if dtype == torch.float32 else 'tf32'


def empty_like_query(query: Tensor) -> Tensor:
    """[B, H, N, d], dense, tokens or heads outermost as in the query."""
    batch, heads, tokens, dim = query.shape
    if query.stride(1) < query.stride(2):
        return query.new_empty(batch, tokens, heads, dim).transpose(1, 2)
    return query.new_empty(batch, heads, tokens, dim)


class Plan:
    """What calls of one signature share: block sizes and compiled kernels.

    Triton's launcher inspects every argument of every launch anew, which takes longer than the
    kernels do on small maps. A signature settles all that it would find, the grid included, so
    that later launches of the same signature call the compiled kernel directly.
    """

    def __init__(self, blocks, tensors: list[Tensor]):
        self.blocks = blocks
        self.wide = any(is_wide(tensor) for tensor in tensors)
        self._compiled = {}

    def launch(self, kernel, grid: tuple[int, ...], *args, **options) -> None:
        """kernel[grid](*args, **options); `options` hold constants alone, in any order."""
        known = self._compiled.get((kernel.__name__, grid))
        if known:
            run, constants = known
            run(*args, *constants)
            return
        compiled = kernel[grid](*args, **options)
        if compiled is not None:  # the interpreter compiles nothing
            constants = [options[name] for name in kernel.arg_names[len(args) :]]
            run = compiled[grid + (1,) * (3 - len(grid))]
            self._compiled[kernel.__name__, grid] = run, constants


_plans: dict[tuple, Plan] = {}


def find_plan(make_blocks: Callable, tensors: list[Tensor], *options) -> Plan:
    """The plan of calls with these tensors [B, H, .., d] and constants.

    Shapes, strides, dtype, device and alignment settle what the kernels are compiled for.
    """
    signature = (
        tensors[0].dtype,
        tensors[0].get_device(),
        options,
        *[(tensor.shape, tensor.stride(), tensor.data_ptr() % 16) for tensor in tensors],
    )
    known = _plans.get(signature)
    if known is None:
        if len(_plans) >= 1024:  # images of ever new sizes
            _plans.clear()
        known = _plans[signature] = Plan(make_blocks(), tensors)
    return known


def is_wide(tensor: Tensor) -> bool:
    """Whether offsets within a head of a tensor [B, H, N, d] need 64 bits."""
    tokens, dim = tensor.shape[2:]
    return tokens * tensor.stride(2) + dim * tensor.stride(3) >= 2**31


def on_its_device(function):
    """Makes the device of the first tensor the current one, on which Triton launches."""

    @functools.wraps(function)
    def run(tensor, *args, **kwargs):
        if not tensor.is_cuda or tensor.get_device() == torch.cuda.current_device():
            return function(tensor, *args, **kwargs)
        with torch.cuda.device(tensor.device):
            return function(tensor, *args, **kwargs)

    return run
