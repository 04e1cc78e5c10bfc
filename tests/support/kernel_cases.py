"""The Triton kernels against the reference, and what they chose."""

import torch

from mita_seg.ops import mita_attention
from mita_seg.ops.options import MiTAOptions, to_scalars
from mita_seg.ops.reference import attend_to_chosen
from support.operator_cases import NAMES, relative_error, with_gradients

OPTIONS = [  # that launch other kernels, or other versions of them
    {},
    {'num_routed': 2},
    {'topk': 0},
    {'shared': False},
    {'shared': False, 'remainder': True},
]


def assert_kernels_agree(tensors, tolerance=1e-5, **arguments):
    """Outputs and gradients equal the reference's, to a relative error of their norms."""
    expected = with_gradients(tensors, **arguments, backend='reference')
    results = with_gradients(tensors, **arguments, backend='triton')
    for name, wanted, result in zip(NAMES, expected, results, strict=True):
        if wanted is None:
            assert result is None or not result.any(), name
        else:
            assert result.dtype == wanted.dtype and result.isfinite().all(), name
            # A gradient that cancels to nearly nothing is compared with the output's size.
            size = max(wanted.norm(), 0.1 * expected[0].norm())
            error = (result - wanted).norm() / size
            assert error < tolerance, f'{name}: relative error {error}'


def read_state(tensors, topk, num_routed=1, shared=True):
    """What a forward pass with given landmarks leaves for the backward pass."""
    from mita_seg.ops.triton.op import triton_attention
    from mita_seg.ops.triton.state import lay_out, view_state

    query, *_, landmarks = tensors
    scale = query.shape[-1] ** -0.5
    options = MiTAOptions(topk, num_routed, scale, scale, shared)
    with torch.no_grad():
        _, state = triton_attention(*tensors, **to_scalars(options))
    return view_state(state, lay_out(query, landmarks, options))


def read_choice(tensors, topk, num_routed=1, shared=True):
    """The kernels' experts [B, H, m, k] and routes [B, H, N, s]; each row must be in one tile."""
    state = read_state(tensors, topk, num_routed, shared)
    batch, heads, tokens, _ = tensors[0].shape
    routes = torch.full((batch * heads, tokens * num_routed), -1)
    for head, (rows, tiles) in enumerate(
        zip(state.route_of_slot.cpu(), state.tiles.cpu(), strict=True)
    ):
        *packed, used = tiles.tolist()
        rows = rows.view(len(packed), -1)
        for slots, tile in zip(rows[:used], packed[:used], strict=True):
            held = slots[: tile % 256].long()
            assert (routes[head, held] == -1).all() and held.unique().numel() == held.numel()
            routes[head, held] = tile // 256
    assert (routes >= 0).all()
    experts = state.indices.long().unflatten(0, (batch, heads))
    return experts, routes.view(batch, heads, tokens, num_routed).to(experts.device)


def assert_as_precise_as_plain_operations(tensors, topk, num_routed=1, shared=True):
    """Errors against float64, given the kernels' choice: outputs 2x, gradients 3x at most.

    The plain operations compute in the dtype of the inputs throughout.
    """
    options = {'topk': topk, 'num_routed': num_routed, 'shared': shared}
    chosen = read_choice(tensors, **options) if topk else (None, None)
    scale = tensors[0].shape[-1] ** -0.5
    filled_in = MiTAOptions(scale=scale, landmark_scale=scale, **options)

    def define(*tensors):
        return attend_to_chosen(*tensors, *chosen, filled_in)

    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in tensors]
    exact, plain = (with_gradients(inputs, define) for inputs in (exact_inputs, tensors))
    results = with_gradients(tensors, mita_attention, **options, backend='triton')
    for name, result, rounded, wanted in zip(NAMES, results, plain, exact, strict=True):
        if wanted is None:
            assert result is None or not result.any(), name
            continue
        assert result.dtype == tensors[0].dtype and result.isfinite().all(), name
        error, allowed = relative_error(result, wanted), relative_error(rounded, wanted)
        factor = 2 if name == 'output' else 3
        assert error <= factor * allowed, f'{name}: error {error:.2e}, plain {allowed:.2e}'
