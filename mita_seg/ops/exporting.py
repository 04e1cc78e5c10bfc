"""The operators while a model is exported: operations that exporters know, for every size.

Nothing here depends on the values of sizes, so that batch and image may vary in the exported
program. No floats are read as integers and no operator is of our own.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .options import MiTAOptions
from .tiled import Partial, Tiling, attend, attend_in_tiles, gather_rows, merge

TILE = 32  # rows; how many suit the map is not known


def pool(patch_map: Tensor, height: int, width: int) -> Tensor:
    """Adaptive average pooling [B, C, h, w] -> [B, C, height, width] as two matrix products."""
    rows = _window_weights(patch_map.shape[-2], height, patch_map)
    columns = _window_weights(patch_map.shape[-1], width, patch_map)
    return rows @ patch_map @ columns.transpose(0, 1)


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

    The same choices, and the same sums up to rounding, as of the backend 'tiled'. float16 is
    computed in float32, as there.
    """
    batch, heads, num_tokens, dim = query.shape
    dtype = query.dtype
    if dtype == torch.float16:
        query, key, value, landmarks = (rows.float() for rows in (query, key, value, landmarks))
    query, key, value, landmarks = (rows.flatten(0, 1) for rows in (query, key, value, landmarks))
    closeness = query @ landmarks.transpose(1, 2)  # [heads, N, m]
    scores = landmarks @ key.transpose(1, 2)  # [heads, m, N]
    partials: list[Partial] = []
    if options.shared:
        landmark_values = (options.scale * scores).softmax(-1) @ value  # [heads, m, d]
        partials.append(attend(options.landmark_scale * closeness, landmark_values))
    if options.topk:
        with torch.no_grad():
            experts = top_indices(scores, _at_most(options.topk, num_tokens))
            routes = top_indices(closeness, options.num_routed)
            tiling = tile_rows(routes.flatten(1), landmarks.shape[1])
        partials += attend_in_tiles(
            query, key, value, experts, options.num_routed, options.scale, tiling, TILE, gather_rows
        )
    return merge(partials).to(dtype).reshape(batch, heads, num_tokens, dim)


def top_indices(scores: Tensor, topk: int) -> Tensor:
    """Top-k of the last dimension, ties to the lowest index, [..., N] -> [..., k], in no order."""
    num_scores = scores.shape[-1]
    lowest = scores.topk(topk, dim=-1).values.amin(-1, keepdim=True)
    # Above it, equal to it, below it; of each, the first place highest.
    level = (scores > lowest).long() + (scores >= lowest).long()
    from_end = torch.arange(num_scores, device=scores.device).flip(0)
    return (level * num_scores + from_end).topk(topk, dim=-1).indices


def tile_rows(expert_of_row: Tensor, num_experts: int) -> Tiling:
    """:func:`mita_seg.ops.tiled.tile_rows` of tiles of height `TILE`, by counting."""
    heads, rows = expert_of_row.shape
    device = expert_of_row.device
    num_tiles = (rows + num_experts * (TILE - 1)) // TILE

    seen = one_hot(expert_of_row, num_experts).cumsum(1)  # [heads, rows, m], of each expert so far
    tiles = (seen[:, -1] + TILE - 1) // TILE  # [heads, m]
    last_tile = tiles.cumsum(1)  # exclusive end
    first_slot = (last_tile - tiles) * TILE
    place = seen.gather(2, expert_of_row.unsqueeze(-1)).squeeze(-1) - 1  # in its expert
    slot = first_slot.gather(1, expert_of_row) + place  # [heads, rows]

    head = torch.arange(heads, device=device).unsqueeze(1)
    row = torch.arange(rows, device=device).expand(heads, -1) + head * rows
    row_of_slot = torch.full_like(head, -1).expand(-1, num_tiles * TILE).scatter(1, slot, row)
    tile = torch.arange(num_tiles, device=device).unsqueeze(1)
    expert_of_tile = (last_tile.unsqueeze(1) <= tile).sum(-1).clamp(max=num_experts - 1)
    return Tiling(
        slot + head * (num_tiles * TILE), row_of_slot, expert_of_tile + head * num_experts
    )


def _at_most(topk: int, num_tokens: int) -> int:
    """The smaller one, also where the number of tokens is not known yet."""
    if isinstance(num_tokens, Tensor):  # in a trace
        return torch.minimum(num_tokens, torch.full_like(num_tokens, topk))
    return torch.sym_min(topk, num_tokens)
