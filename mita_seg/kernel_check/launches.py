"""What a call would launch, without memory or a GPU."""

from math import isqrt
from typing import Any, NamedTuple

import torch

from mita_seg.ops.options import Pooling, make_options
from mita_seg.ops.triton.backward import mita_backward
from mita_seg.ops.triton.cluster_landmarks import cluster, cluster_backward
from mita_seg.ops.triton.forward import mita_forward
from mita_seg.ops.triton.gpu import Gpu
from mita_seg.ops.triton.upsampled_cross_entropy import (
    cross_entropy_forward,
    cross_entropy_gradient,
)

from .cases import Case, ClusterCase, LossCase


class Launch(NamedTuple):
    """A kernel with its arguments and constants. The tensors are on the device ``meta``."""

    kernel: Any
    args: tuple
    options: dict

    @property
    def name(self) -> str:
        """Of the kernel, such as ``_attend_kernel``."""
        return self.kernel.__name__

    def key(self) -> tuple:
        """Equal for launches that are compiled alike."""
        # Interpreted kernels have no parameters that tell.
        parameters = getattr(self.kernel, 'params', ())
        alike = {parameter.name for parameter in parameters if parameter.do_not_specialize}
        given = zip(self.kernel.arg_names, self.args, strict=False)
        return (
            self.name,
            tuple(_specialization(arg, name in alike) for name, arg in given),
            tuple(sorted(self.options.items(), key=lambda item: item[0])),
        )


class DryPlan:
    """Replaces a :class:`mita_seg.ops.triton.call_plan.Plan`, and only notes the launches.

    Args:
        gpu: The GPU that block sizes are chosen for.
    """

    def __init__(self, gpu: Gpu):
        self.gpu = gpu
        self.results: list[torch.Tensor] = []
        self.launches: list[Launch] = []

    def result(self, tensor):
        """As a plan's."""
        self.results.append(tensor)
        return tensor

    def scratch(self, *shape, dtype):
        """As a plan's, on the device ``meta``."""
        return torch.empty(shape, dtype=dtype, device='meta')

    def launch(self, kernel, grid, *args, **options):
        """Note what would be launched."""
        self.launches.append(Launch(kernel, args, options))


def list_launches(case: Case | LossCase | ClusterCase, gpu: Gpu) -> list[Launch]:
    """The launches of a case on a GPU, forward and then backward."""
    if isinstance(case, LossCase):
        return _of_loss(case, gpu)
    return _of_clusters(case, gpu) if isinstance(case, ClusterCase) else _of_attention(case, gpu)


def _of_clusters(case: ClusterCase, gpu: Gpu) -> list[Launch]:
    query = _packed(case)[0]
    if not case.packed:
        query = query.new_empty(query.shape)
    landmarks = query.new_empty(1, case.heads, case.landmarks, case.dim)
    plan = DryPlan(gpu)
    cluster(plan, query, landmarks, case.steps)
    out, *state = plan.results
    cluster_backward(plan, out, query, *state, None)
    return plan.launches


def _packed(case: Case | ClusterCase) -> tuple[torch.Tensor, ...]:
    """query, key and value [1, H, N, d] that lie in one tensor."""
    shape = 1, case.tokens, 3, case.heads, case.dim
    return torch.empty(shape, dtype=case.dtype, device='meta').permute(2, 0, 3, 1, 4).unbind()


def _of_loss(case: LossCase, gpu: Gpu) -> list[Launch]:
    logits = torch.empty(1, case.classes, *case.size, dtype=case.dtype, device='meta')
    size = [case.factor * side for side in case.size]
    labels = torch.empty(1, *size, dtype=torch.int64, device='meta')
    plan = DryPlan(gpu)
    cross_entropy_forward(plan, logits, labels, (255, False))
    losses, _, lse = plan.results
    cross_entropy_gradient(plan, losses, logits, labels, lse, (255, False))
    return plan.launches


def _of_attention(case: Case, gpu: Gpu) -> list[Launch]:
    shape = 1, case.heads, case.tokens, case.dim
    if case.packed:
        query, key, value = _packed(case)
    else:
        query, key, value = (torch.empty(shape, dtype=case.dtype, device='meta') for _ in range(3))
    height = isqrt(case.tokens)
    width = case.tokens // height
    start = case.tokens - height * width
    options = make_options(
        (case.tokens, case.dim),
        case.landmarks[0] * case.landmarks[1],
        topk=case.topk,
        num_routed=case.num_routed,
        shared=case.shared,
        remainder=case.remainder,
    )
    options = options._replace(pooling=Pooling(height, width, *case.landmarks, start))
    plan = DryPlan(gpu)
    mita_forward(plan, query, key, value, None, options)
    out, state = plan.results
    mita_backward(plan, out, query, key, value, None, out, state, options)
    return plan.launches


def _specialization(arg, is_left_out: bool) -> Any:
    """What Triton looks at: dtypes, and which numbers are 1, divisible by 16, or long."""
    if isinstance(arg, torch.Tensor):
        return arg.dtype
    if isinstance(arg, int) and not is_left_out:
        return arg == 1, arg % 16 == 0, arg.bit_length() > 31
    return type(arg)
