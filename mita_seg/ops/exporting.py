"""The operators while a model is exported: operations that exporters know, for every size.

Nothing here depends on the values of sizes, so that batch and image may vary in the exported
program. No floats are read as integers and no operators of this package are used.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling
from torch.nn.functional import one_hot

from .options import MiTAOptions
from .tiled import Tiling, Tools, gather_rows, tiled_attention

TILE = 32  # queries; the best number is not known before the size of the map


def pool(patch_map: Tensor, height: int, width: int) -> Tensor:
    """Adaptive average pooling [B, C, h, w] -> [B, C, height, width] as two matrix products."""
    vertical = _window_weights(patch_map.shape[-2], height, patch_map)
    horizontal = _window_weights(patch_map.shape[-1], width, patch_map)
    return vertical @ patch_map @ horizontal.transpose(0, 1)


def _window_weights(size: int, count: int, like: Tensor) -> Tensor:
    """Share of each of `size` places in the mean of each of `count` windows, [count, size]."""
    window = torch.arange(count, device=like.device).unsqueeze(1)
    place = torch.arange(size, device=like.device)
    start, stop = window * size // count, ((window + 1) * size + count - 1) // count
    inside = (place >= start) & (place < stop)
    return inside.to(like.dtype) / (stop - start).to(like.dtype)


def exported_attention(
    query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor, options: MiTAOptions
) -> Tensor:
    """MiTA attention, tile by tile; tensors as in :func:`mita_seg.ops.mita_attention`.

    The same choices, and the same sums up to rounding, as of the backend 'tiled'.
    """
    return tiled_attention(query, key, value, landmarks, options, TOOLS)


def top_indices(scores: Tensor, topk: int) -> Tensor:
    """Top-k of the last dimension, ties to the lowest index, [..., N] -> [..., k], in no order.

    If there are fewer than k, all of them.
    """
    num_scores = scores.shape[-1]
    topk = _at_most(topk, num_scores)
    lowest = scores.topk(topk, dim=-1).values.amin(-1, keepdim=True)
    # Above it, equal to it, below it; of each, the first place highest.
    level = (scores > lowest).long() + (scores >= lowest).long()
    from_end = torch.arange(num_scores, device=scores.device).flip(0)
    return (level * num_scores + from_end).topk(topk, dim=-1).indices


def tile_routes(expert_of_route: Tensor, num_experts: int, height: int) -> Tiling:
    """:func:`mita_seg.ops.tiled.tile_routes`, by counting."""
    heads, routes = expert_of_route.shape
    device = expert_of_route.device
    num_tiles = (routes + num_experts * (height - 1)) // height

    # Routes to each expert so far, [heads, routes, m].
    seen = one_hot(expert_of_route, num_experts).cumsum(1)
    tiles = (seen[:, -1] + height - 1) // height  # [heads, m]
    last_tile = tiles.cumsum(1)  # exclusive end
    first_slot = (last_tile - tiles) * height
    place = seen.gather(2, expert_of_route.unsqueeze(-1)).squeeze(-1) - 1  # in its expert
    slot = first_slot.gather(1, expert_of_route) + place  # [heads, routes]

    head = torch.arange(heads, device=device).unsqueeze(1)
    route = torch.arange(routes, device=device).expand(heads, -1) + head * routes
    route_of_slot = torch.full_like(head, -1).expand(-1, num_tiles * height).scatter(1, slot, route)
    tile = torch.arange(num_tiles, device=device).unsqueeze(1)
    expert_of_tile = (last_tile.unsqueeze(1) <= tile).sum(-1).clamp(max=num_experts - 1)
    return Tiling(
        slot + head * (num_tiles * height), route_of_slot, expert_of_tile + head * num_experts
    )


def _at_most(topk: int, num_tokens: int) -> int:
    """The smaller one, also where the number of tokens is not known yet."""
    if isinstance(num_tokens, Tensor):  # in a trace
        return torch.minimum(num_tokens, torch.full_like(num_tokens, topk))
    # Dynamo, of a strict export, takes Python's own function for open sizes too, and before torch
    # 2.12 no sym_min of two numbers that it knows.
    smaller: Callable[[int, int], int] = min if is_dynamo_compiling() else torch.sym_min
    return smaller(topk, num_tokens)


TOOLS = Tools(
    top_keys=top_indices,
    top_landmarks=top_indices,
    tile_height=lambda num_routes, num_experts: TILE,
    tile_routes=tile_routes,
    move_rows=gather_rows,
)
