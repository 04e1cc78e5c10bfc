"""Offsets of the shared expert with which MiTA attention is nearest to full attention."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mita_seg.analysis.arrays import shared_masses
from mita_seg.analysis.observe import mita_layers, observe
from mita_seg.analysis.record import make_routing
from mita_seg.layers.full_attention import full_attention
from mita_seg.ops import mita_attention

OFFSETS = (-6.0, -4.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)


class Calibration(NamedTuple):
    """What was found for one layer.

    Attributes:
        offset: The best `shared_offset`.
        error: Squared distance from full attention's output, over the squared norm of that.
        error_before: The same with the layer's own offset.
    """

    offset: float
    error: float
    error_before: float


def observe_offsets(model: nn.Module, offsets: Sequence[float] = OFFSETS):
    """Compare every layer under each offset with full attention, whose outputs the model gets.

    Layers without a shared or without routed experts are left out: an offset changes nothing there.
    Outputs are those of the attention, before its projection.

    Args:
        model: Any model with MiTA attentions and the weights of full attention.
        offsets: Those to try.

    Returns:
        A context manager; yields, by layer, a tensor of errors [1 + len(offsets)] for each forward
        pass, the first with the layer's own offset.

    Raises:
        ValueError: The model has no MiTA attention, or none with both kinds of experts.
    """
    names = [name for name, layer in mita_layers(model).items() if layer.shared and layer.topk]
    if not names:
        raise ValueError('the model has no MiTAAttention with a shared and with routed experts')

    @torch.no_grad()
    def observed(layer, attend, passes, q, k, v, grid, start):
        routing = make_routing(layer, q, k, grid, start)
        own = routing.options.shared_offset
        settings = {
            'num_routed': routing.options.num_routed,
            'scale': routing.options.scale,
            'landmark_scale': routing.options.landmark_scale,
        }
        tensors = [each.float() for each in (q, k, v, routing.landmarks)]
        full = full_attention(*tensors[:3])
        shared = mita_attention(*tensors, topk=0, **settings)
        routed = mita_attention(*tensors, topk=routing.options.topk, shared=False, **settings)
        # One softmax over both: the shared expert's share has an offset of its logit.
        share = shared_masses(routing).to(full).unsqueeze(-1).logit(eps=1e-6)
        errors = [
            _relative(torch.lerp(routed, shared, (share + offset - own).sigmoid()), full)
            for offset in (own, *offsets)
        ]
        passes.append(torch.stack(errors).cpu())
        return full_attention(q, k, v)

    return observe(model, observed, names)


def _relative(output: Tensor, full: Tensor) -> Tensor:
    return (output - full).square().sum() / full.square().sum()


def best_offsets(
    collected: dict[str, list[Tensor]], offsets: Sequence[float] = OFFSETS
) -> dict[str, Calibration]:
    """The best offset of each layer, by the mean error of all passes.

    Args:
        collected: From :func:`observe_offsets`, with the same offsets.
        offsets: Those that were tried.
    """
    found = {}
    for name, passes in collected.items():
        before, *errors = torch.stack(passes).mean(0).tolist()
        place = min(range(len(errors)), key=errors.__getitem__)
        found[name] = Calibration(offsets[place], errors[place], before)
    return found
