"""MiTA attention with queries grouped by expert, in plain torch operations.

Queries that go to one expert share its keys, so they are packed into tiles of one expert each and
every tile is a small dense matrix product: memory grows with N (m + s d), never with N k d or N^2.
An upper bound on the number of tiles is known from the shapes alone, so nothing waits for data.

The shared expert and each routed expert yield a partial softmax; partial softmaxes are merged
through their maxima and sums, which equals one softmax over all their logits.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding, pad

from .options import MiTAOptions
from .selection import closest_landmarks, top_indices

MIN_TILE, MAX_TILE = 16, 64


class Partial(NamedTuple):
    """An unnormalised softmax over some of the logits of each query."""

    output: Tensor  # exp(logits - peak) @ values, [..., rows, d]
    total: Tensor  # sum of exp(logits - peak), [..., rows, 1]
    peak: Tensor  # largest logit, without gradient, [..., rows, 1]


def attend(logits: Tensor, values: Tensor) -> Partial:
    """logits [..., rows, keys], values [..., keys, d]."""
    peak = logits.detach().amax(-1, keepdim=True)
    weights = (logits - peak).exp_()
    return Partial(weights @ values, weights.sum(-1, keepdim=True), peak)


def merge(partials: list[Partial]) -> Tensor:
    """One softmax over the logits of all partials, times their values."""
    if len(partials) == 1:
        return partials[0].output / partials[0].total
    peak = torch.stack([part.peak for part in partials]).amax(0)
    factors = [(part.peak - peak).exp_() for part in partials]
    total = sum(part.total * factor for part, factor in zip(partials, factors, strict=True))
    return sum(
        part.output * (factor / total) for part, factor in zip(partials, factors, strict=True)
    )


class Tiling(NamedTuple):
    """Rows (a query and one of its experts) packed into tiles of one expert each, per head."""

    slot_of_row: Tensor  # [heads, rows] -> slot among heads * tiles * height
    row_of_slot: Tensor  # [heads, tiles * height] -> row among heads * rows; -1 where empty
    expert_of_tile: Tensor  # [heads, tiles] -> expert among heads * m


def tile_rows(expert_of_row: Tensor, num_experts: int, height: int) -> Tiling:
    """Group rows by expert.

    Each expert fills ceil(rows / height) tiles, at most (rows + m (height - 1)) / height together.
    """
    heads, rows = expert_of_row.shape
    device = expert_of_row.device
    num_tiles = (rows + num_experts * (height - 1)) // height

    counts = expert_of_row.new_zeros(heads, num_experts)
    counts.scatter_add_(1, expert_of_row, torch.ones_like(expert_of_row))
    last_tile = ((counts + height - 1) // height).cumsum(1)  # [heads, m], exclusive end
    first_slot = (last_tile - (counts + height - 1) // height) * height
    first_rank = counts.cumsum(1) - counts

    order = expert_of_row.argsort(dim=1, stable=True)
    expert = expert_of_row.gather(1, order)
    rank = torch.arange(rows, device=device)
    slot = rank + (first_slot - first_rank).gather(1, expert)  # of the row at that rank

    head = torch.arange(heads, device=device).unsqueeze(1)
    slot_of_row = torch.empty_like(slot).scatter_(1, order, slot + head * num_tiles * height)
    row_of_slot = slot.new_full((heads, num_tiles * height), -1)
    row_of_slot.scatter_(1, slot, order + head * rows)

    tile = torch.arange(num_tiles, device=device).expand(heads, -1).contiguous()
    expert_of_tile = torch.searchsorted(last_tile, tile, right=True).clamp(max=num_experts - 1)
    return Tiling(slot_of_row, row_of_slot, expert_of_tile + head * num_experts)


def move_rows(rows: Tensor, slot_of_row: Tensor, row_of_slot: Tensor, pack: bool) -> Tensor:
    """Rows into slots, zeros where a slot is empty; or, with `pack` False, back out of them.

    Either is the gradient of the other, and a gather instead of a scatter. Nothing passes between
    an empty slot and any row: not even NaN does, whose product with 0 is NaN.

    Args:
        rows: [rows, d], or [slots, d] to unpack.
        slot_of_row: [rows]
        row_of_slot: [slots], -1 where empty.
        pack: The direction.

    Returns:
        [slots, d], or [rows, d] unpacked.
    """
    move = CompiledMove if torch.compiler.is_compiling() else Move
    return move.apply(rows, slot_of_row, row_of_slot, pack)


def gather_rows(rows: Tensor, slot_of_row: Tensor, row_of_slot: Tensor, pack: bool) -> Tensor:
    """:func:`move_rows`, with a gradient that scatters."""
    if not pack:
        return rows.index_select(0, slot_of_row)
    rows = pad(rows, (0, 0, 1, 0))  # the first one, zeros, goes where -1 is
    return rows.index_select(0, row_of_slot + 1)


class CompiledMove(torch.autograd.Function):
    """What torch.compile takes: no rules for torch.func, and no gradients of gradients."""

    @staticmethod
    def forward(rows: Tensor, slot_of_row: Tensor, row_of_slot: Tensor, pack: bool) -> Tensor:
        return gather_rows(rows, slot_of_row, row_of_slot, pack)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, *indices, ctx.pack = inputs
        ctx.save_for_backward(*indices)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return gather_rows(grad, *ctx.saved_tensors, not ctx.pack), None, None, None


class Move(CompiledMove):
    """The same with all that torch.func does, and gradients of gradients."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx, inputs, output):
        CompiledMove.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[1:3])

    @staticmethod
    def backward(ctx, grad: Tensor):
        return Move.apply(grad, *ctx.saved_tensors, not ctx.pack), None, None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_):
        return Move.apply(tangent, *ctx.saved_tensors, ctx.pack)


def routed_partials(
    query: Tensor, key: Tensor, value: Tensor, experts: Tensor, routes: Tensor, scale: float
) -> list[Partial]:
    """Attention of each query to its routed experts, one partial an expert.

    query, key, value [heads, N, d]; experts [heads, m, k]; routes [heads, N, s].
    """
    num_experts, num_routed = experts.shape[1], routes.shape[-1]
    height = tile_height(query.shape[1] * num_routed, num_experts)
    tiling = tile_rows(routes.flatten(1), num_experts, height)
    return attend_in_tiles(query, key, value, experts, num_routed, scale, tiling, height, move_rows)


def attend_in_tiles(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    experts: Tensor,
    num_routed: int,
    scale: float,
    tiling: Tiling,
    height: int,
    move: Callable[..., Tensor],
) -> list[Partial]:
    """:func:`routed_partials` in given tiles of a height, into and out of which `move` moves."""
    heads, num_tokens, dim = query.shape
    num_experts, topk = experts.shape[1:]
    slot_of_row, row_of_slot = tiling.slot_of_row.flatten(), tiling.row_of_slot.flatten()

    rows = query.unsqueeze(2).expand(-1, -1, num_routed, -1).reshape(-1, dim)
    tiles = move(rows, slot_of_row, row_of_slot, pack=True).view(-1, height, dim)

    picked = experts + num_tokens * torch.arange(heads, device=query.device).view(-1, 1, 1)
    tile_of = tiling.expert_of_tile.flatten()

    def by_expert(tokens: Tensor) -> Tensor:  # [heads, m, k, d]
        return embedding(picked, tokens.reshape(-1, dim))

    def by_tile(experts: Tensor) -> Tensor:  # [heads * tiles, k, d]
        rows = embedding(tile_of, experts.reshape(heads * num_experts, topk * dim))
        return rows.view(-1, topk, dim)

    # [heads * tiles, height, k]
    logits = tiles @ by_tile(scale * by_expert(key)).transpose(1, 2)
    partial = attend(logits, by_tile(by_expert(value)))

    def unpack(tile_rows: Tensor) -> Tensor:
        rows = move(tile_rows.flatten(0, 1), slot_of_row, row_of_slot, pack=False)
        return rows.view(heads, num_tokens, num_routed, tile_rows.shape[-1])

    return [
        Partial(*parts) for parts in zip(*(unpack(part).unbind(2) for part in partial), strict=True)
    ]


def tile_height(rows: int, num_experts: int) -> int:
    """About rows / m, a power of two: taller tiles waste padding, lower ones re-read the keys."""
    height = MIN_TILE
    while height < MAX_TILE and height * num_experts < rows:
        height *= 2
    return height


def tiled_attention(
    query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor, options: MiTAOptions
) -> Tensor:
    """MiTA attention, tile by tile; tensors as in :func:`mita_seg.ops.mita_attention`.

    float16 is computed in float32: its products exceed 65504, the largest float16, at activations
    at which those of scaled_dot_product_attention, which sums in float32, do not.
    """
    batch_shape, dtype = query.shape[:2], query.dtype
    if dtype == torch.float16:
        query, key, value, landmarks = (rows.float() for rows in (query, key, value, landmarks))
    query, key, value, landmarks = (rows.flatten(0, 1) for rows in (query, key, value, landmarks))
    partials = []
    closeness = query @ landmarks.transpose(1, 2)  # [heads, N, m]
    scores = landmarks @ key.transpose(1, 2)  # [heads, m, N]
    if options.shared:
        landmark_values = (options.scale * scores).softmax(-1) @ value  # [heads, m, d]
        partials.append(attend(options.landmark_scale * closeness, landmark_values))
    if options.topk:
        with torch.no_grad():
            experts = top_indices(scores, options.topk)
            routes = closest_landmarks(closeness, options.num_routed)
        partials += routed_partials(query, key, value, experts, routes, options.scale)
    return merge(partials).to(dtype).unflatten(0, batch_shape)
