"""MiTA attention with queries grouped by expert, in plain torch operations.

Queries that go to one expert share its keys. They are packed into tiles of one expert each, and
every tile is a small dense matrix product: memory grows with N (m + s d), never with N k d or N^2.
The shapes alone give an upper bound on the number of tiles, so nothing waits for data.

The shared expert and each routed expert, with its remainder, yield a partial softmax. Partial
softmaxes are merged by their maxima and sums, which equals one softmax over all their logits.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding, pad

from .options import MiTAOptions
from .remainder import Remainder, summarize
from .selection import route, select, top_indices, top_landmarks

MIN_TILE, MAX_TILE = 16, 64


class Partial(NamedTuple):
    """An unnormalised softmax over some of the logits of each query."""

    output: Tensor  # exp(logits - row_max) @ values, [..., rows, d]
    row_sum: Tensor  # sum of exp(logits - row_max), [..., rows, 1]
    row_max: Tensor  # largest logit, without gradient, [..., rows, 1]


def attend(logits: Tensor, values: Tensor) -> Partial:
    """logits [..., rows, keys], values [..., keys, d]."""
    row_max = logits.detach().amax(-1, keepdim=True)
    weights = (logits - row_max).exp_()
    return Partial(weights @ values, weights.sum(-1, keepdim=True), row_max)


def merge(partials: list[Partial]) -> Tensor:
    """One softmax over the logits of all partials, times their values."""
    if len(partials) == 1:
        return partials[0].output / partials[0].row_sum
    row_max = torch.stack([part.row_max for part in partials]).amax(0)
    factors = [(part.row_max - row_max).exp_() for part in partials]
    weighted = list(zip(partials, factors, strict=True))
    row_sum = reduce(torch.add, (part.row_sum * factor for part, factor in weighted))
    return reduce(torch.add, (part.output * (factor / row_sum) for part, factor in weighted))


class Tiling(NamedTuple):
    """Routes (a query and one of its experts) packed into tiles of one expert each, per head."""

    slot_of_route: Tensor  # [heads, routes] -> slot among heads * tiles * height
    route_of_slot: Tensor  # [heads, tiles * height] -> route among heads * routes; -1: empty
    expert_of_tile: Tensor  # [heads, tiles] -> expert among heads * m


def tile_routes(expert_of_route: Tensor, num_experts: int, height: int) -> Tiling:
    """Group routes by expert.

    An expert with n routes fills ceil(n / height) tiles; all experts fill at most
    (routes + m (height - 1)) / height.
    """
    heads, routes = expert_of_route.shape
    device = expert_of_route.device
    num_tiles = (routes + num_experts * (height - 1)) // height

    counts = expert_of_route.new_zeros(heads, num_experts)
    counts.scatter_add_(1, expert_of_route, torch.ones_like(expert_of_route))
    last_tile = ((counts + height - 1) // height).cumsum(1)  # [heads, m], exclusive end
    first_slot = (last_tile - (counts + height - 1) // height) * height
    first_rank = counts.cumsum(1) - counts

    order = expert_of_route.argsort(dim=1, stable=True)
    expert = expert_of_route.gather(1, order)
    rank = torch.arange(routes, device=device)
    slot = rank + (first_slot - first_rank).gather(1, expert)  # of the route at that rank

    head = torch.arange(heads, device=device).unsqueeze(1)
    slot_of_route = torch.empty_like(slot).scatter_(1, order, slot + head * num_tiles * height)
    route_of_slot = slot.new_full((heads, num_tiles * height), -1)
    route_of_slot.scatter_(1, slot, order + head * routes)

    tile = torch.arange(num_tiles, device=device).expand(heads, -1).contiguous()
    expert_of_tile = torch.searchsorted(last_tile, tile, right=True).clamp(max=num_experts - 1)
    return Tiling(slot_of_route, route_of_slot, expert_of_tile + head * num_experts)


def move_rows(rows: Tensor, slot_of_route: Tensor, route_of_slot: Tensor, pack: bool) -> Tensor:
    """Rows of routes into slots, zeros in empty slots; or, with `pack` False, back out of them.

    Each direction is the gradient of the other, and a gather instead of a scatter. An empty slot
    does not affect any route: also NaN stays where it is, although its product with 0 is NaN.

    Args:
        rows: [routes, d], or [slots, d] to unpack.
        slot_of_route: [routes]
        route_of_slot: [slots], -1 where empty.
        pack: The direction.

    Returns:
        [slots, d], or [routes, d] unpacked.
    """
    move = CompiledMove if torch.compiler.is_compiling() else Move
    return move.apply(rows, slot_of_route, route_of_slot, pack)


def gather_rows(rows: Tensor, slot_of_route: Tensor, route_of_slot: Tensor, pack: bool) -> Tensor:
    """:func:`move_rows`, with a gradient that scatters."""
    if not pack:
        return rows.index_select(0, slot_of_route)
    rows = pad(rows, (0, 0, 1, 0))  # the first row, zeros, is what -1 takes
    return rows.index_select(0, route_of_slot + 1)


class CompiledMove(torch.autograd.Function):
    """For torch.compile: no rules for torch.func, and no gradients of gradients."""

    @staticmethod
    def forward(rows: Tensor, slot_of_route: Tensor, route_of_slot: Tensor, pack: bool) -> Tensor:
        return gather_rows(rows, slot_of_route, route_of_slot, pack)

    @staticmethod
    def setup_context(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        _, *indices, ctx.pack = inputs
        ctx.save_for_backward(*indices)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slot_of_route, route_of_slot = ctx.saved_tensors
        return gather_rows(grad, slot_of_route, route_of_slot, not ctx.pack), None, None, None


class Move(CompiledMove):
    """The same with rules for torch.func, and gradients of gradients."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        CompiledMove.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[1:3])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return Move.apply(grad, *ctx.saved_tensors, not ctx.pack), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return Move.apply(tangent, *ctx.saved_tensors, ctx.pack)


class Tools(NamedTuple):
    """Parts of the computation that an export replaces, see :mod:`mita_seg.ops.exporting`."""

    top_keys: Callable[[Tensor, int], Tensor]  # scores [..., N], k -> indices [..., k]
    top_landmarks: Callable[[Tensor, int], Tensor]  # scores [..., m], s -> indices [..., s]
    tile_height: Callable[[int, int], int]  # routes and experts of a head -> queries in a tile
    tile_routes: Callable[[Tensor, int, int], Tiling]  # see `tile_routes`
    move_rows: Callable[[Tensor, Tensor, Tensor, bool], Tensor]  # see `move_rows`


def tile_height(num_routes: int, num_experts: int) -> int:
    """About routes / m, a power of two: larger tiles waste padding, smaller ones re-read keys."""
    height = MIN_TILE
    while height < MAX_TILE and height * num_experts < num_routes:
        height *= 2
    return height


TOOLS = Tools(top_indices, top_landmarks, tile_height, tile_routes, move_rows)


def tiled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor,
    options: MiTAOptions,
    tools: Tools = TOOLS,
) -> Tensor:
    """MiTA attention, tile by tile; tensors as in :func:`mita_seg.ops.mita_attention`.

    float16 is computed in float32: its products exceed 65504, the largest float16, for activations
    that scaled_dot_product_attention, which sums in float32, still takes.
    """
    shape, dtype = query.shape, query.dtype
    if dtype == torch.float16:
        query, key, value, landmarks = (rows.float() for rows in (query, key, value, landmarks))
    query, key, value, landmarks = (rows.flatten(0, 1) for rows in (query, key, value, landmarks))
    partials = []
    routing_scores = query @ landmarks.transpose(1, 2)  # [heads, N, m]
    scores = landmarks @ key.transpose(1, 2)  # [heads, m, N]
    if options.shared:
        landmark_values = (options.scale * scores).softmax(-1) @ value  # [heads, m, d]
        shared = attend(options.landmark_scale * routing_scores, landmark_values)
        if options.shared_offset:
            shared = shared._replace(row_max=shared.row_max + options.shared_offset)
        partials.append(shared)
    if options.topk:
        experts = select(scores, options, tools.top_keys)
        routes = route(routing_scores, options, tools.top_landmarks)
        remainder = None
        if options.remainder:
            logits = options.scale * scores
            remainder = summarize(logits, experts, key, value, landmarks, options.scale)
        partials += attend_in_tiles(
            query, key, value, experts, routes, options.scale, tools, remainder
        )
    return merge(partials).to(dtype).reshape(shape)


def attend_in_tiles(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    experts: Tensor,
    routes: Tensor,
    scale: float,
    tools: Tools = TOOLS,
    remainder: Remainder | None = None,
) -> list[Partial]:
    """Attention of each query to its routed experts, one partial for each of the s experts.

    query, key, value [heads, N, d]; experts [heads, m, k]; routes [heads, N, s]. A remainder, of
    [heads, m, ...], is one more key of each expert.
    """
    heads, num_tokens, dim = query.shape
    num_experts, topk = experts.shape[1:]
    num_routed = routes.shape[-1]
    height = tools.tile_height(num_tokens * num_routed, num_experts)
    tiling = tools.tile_routes(routes.flatten(1), num_experts, height)
    slot_of_route, route_of_slot = tiling.slot_of_route.flatten(), tiling.route_of_slot.flatten()

    rows = query.unsqueeze(2).expand(-1, -1, num_routed, -1).reshape(-1, dim)
    tiles = tools.move_rows(rows, slot_of_route, route_of_slot, True).view(-1, height, dim)

    places = experts + num_tokens * torch.arange(heads, device=query.device).view(-1, 1, 1)
    expert_of_tile = tiling.expert_of_tile.flatten()

    def by_expert(tokens: Tensor) -> Tensor:  # [heads, m, k, d]
        return embedding(places, tokens.reshape(-1, dim))

    def by_tile(rows: Tensor) -> Tensor:  # [heads, m, ...] -> [heads * tiles, ...]
        flat = embedding(expert_of_tile, rows.flatten(0, 1).flatten(1))
        return flat.view(-1, *rows.shape[2:])

    keys, values = scale * by_expert(key), by_expert(value)
    if remainder is not None:
        keys = torch.cat((keys, scale * remainder.key.unsqueeze(2)), 2)
        values = torch.cat((values, remainder.value.unsqueeze(2)), 2)
    logits = tiles @ by_tile(keys).transpose(1, 2)  # [heads * tiles, height, k]
    if remainder is not None:  # the bias of the last key
        logits = logits + by_tile(pad(remainder.bias, (topk, 0))).unsqueeze(1)
    partial = attend(logits, by_tile(values))

    def unpack(tiles: Tensor) -> Tensor:
        rows = tools.move_rows(tiles.flatten(0, 1), slot_of_route, route_of_slot, False)
        return rows.view(heads, num_tokens, num_routed, tiles.shape[-1])

    return [
        Partial(*parts) for parts in zip(*(unpack(part).unbind(2) for part in partial), strict=True)
    ]
