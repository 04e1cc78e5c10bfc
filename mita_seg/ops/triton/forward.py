"""The forward pass: scores, selection, routing, attention."""

from typing import NamedTuple

import torch
from torch import Tensor

from .attend import _attend_kernel, _merge_kernel
from .blocks import Blocks, choose_blocks
from .launch import LOG2E, cdiv, empty_like_query, next_power_of_2, precision
from .route import _closest_kernel, _offsets_kernel, _place_kernel
from .scores import _scores_kernel
from .select import _select_kernel


class Experts(NamedTuple):
    """The shared and the routed experts of every head."""

    values: Tensor  # shared values [B H, m, d], dtype of the input
    lse: Tensor  # log2 of the sum of exp(c S) of each landmark, float32 [B H, m]
    indices: Tensor  # keys of each expert, int32 [B H, m, k], ascending


class Tiles(NamedTuple):
    """Rows (a query and one of its experts) grouped by expert."""

    row_of_slot: Tensor  # int32 [B H, tiles * height]
    expert: Tensor  # of each tile, int32 [B H, tiles]
    rows: Tensor  # in each tile, int32 [B H, tiles]; 0: surplus tile
    first: Tensor  # first tile of each expert, int32 [B H, m]
    total: Tensor  # rows of each expert, int32 [B H, m]


def build_experts(key, value, landmarks, topk, scale, shared, blocks: Blocks) -> Experts:
    """key, value [B, H, N, d], landmarks [B, H, m, d]; topk 0: no selection."""
    batch, heads, tokens, dim = key.shape
    num_landmarks = landmarks.shape[2]
    rows = batch * heads
    num_blocks = cdiv(tokens, blocks.key_block)
    as_float = {'dtype': torch.float32, 'device': key.device}
    empty = torch.empty(0, **as_float)  # what a kernel is given for an option left out
    scores = torch.empty(rows, num_landmarks, tokens, **as_float) if topk else empty
    maxima = empty
    if topk and blocks.key_block > 1:
        maxima = torch.empty(rows, num_landmarks, num_blocks, **as_float)
    part = part_total = part_peak = empty
    if shared:
        part = torch.empty(rows, blocks.splits, num_landmarks, dim, **as_float)
        part_total = torch.empty(rows, blocks.splits, num_landmarks, **as_float)
        part_peak = torch.empty_like(part_total)
    _scores_kernel[(blocks.splits, cdiv(num_landmarks, blocks.landmarks), rows)](
        key, value, landmarks, scores, maxima, part, part_total, part_peak,
        *key.stride(), *value.stride(), *landmarks.stride(),
        heads, tokens, num_landmarks, num_blocks, blocks.splits, blocks.tokens_per_split,
        scale * LOG2E,
        D=dim, BLOCK_D=blocks.dim, BLOCK_M=blocks.landmarks, BLOCK_N=blocks.score_keys,
        KEY_BLOCK=blocks.key_block, SELECT=topk > 0, SHARED=shared,
        PRECISION=precision(key.dtype),
    )  # fmt: skip

    values = key.new_empty(rows, num_landmarks if shared else 0, dim)
    lse = torch.empty(rows, num_landmarks if shared else 0, **as_float)
    indices = torch.empty(rows, num_landmarks, topk, dtype=torch.int32, device=key.device)
    _select_kernel[(num_landmarks, rows)](
        scores, maxima, indices, part, part_total, part_peak, values, lse,
        tokens, num_blocks, topk, blocks.splits, num_landmarks,
        D=dim, BLOCK_D=blocks.dim, BLOCK_S=next_power_of_2(blocks.splits),
        KEY_BLOCK=blocks.key_block, BLOCK_K=next_power_of_2(max(topk, 1)),
        BLOCK_B=next_power_of_2(num_blocks), SELECT=topk > 0, SHARED=shared,
    )  # fmt: skip
    return Experts(values, lse, indices)


def build_tiles(query, landmarks, num_routed, blocks: Blocks) -> Tiles:
    """query [B, H, N, d], landmarks [B, H, m, d]"""
    batch, heads, tokens, dim = query.shape
    num_landmarks = landmarks.shape[2]
    rows, num_rows = batch * heads, tokens * num_routed
    chunks = cdiv(tokens, blocks.chunk)
    num_tiles = (num_rows + num_landmarks * (blocks.height - 1)) // blocks.height
    as_int = {'dtype': torch.int32, 'device': query.device}
    expert = torch.empty(rows, num_rows, dtype=torch.int16, device=query.device)
    rank = torch.empty(rows, num_rows, **as_int)
    counts = torch.empty(rows, chunks, num_landmarks, **as_int)
    _closest_kernel[(chunks, rows)](
        query, landmarks, expert, rank, counts,
        *query.stride(), *landmarks.stride(),
        heads, tokens, num_landmarks, num_routed, chunks, blocks.chunk,
        D=dim, BLOCK_D=blocks.dim, BLOCK_M=blocks.all_landmarks, BLOCK_N=blocks.query_block,
        PRECISION=precision(query.dtype),
    )  # fmt: skip

    base = torch.empty_like(counts)
    first = torch.empty(rows, num_landmarks, **as_int)
    total = torch.empty_like(first)
    tile_expert = torch.empty(rows, num_tiles, **as_int)
    tile_rows = torch.empty_like(tile_expert)
    per_pass = max(1, 4096 // blocks.all_landmarks)
    _offsets_kernel[(rows,)](
        counts, base, first, total, tile_expert, tile_rows,
        num_landmarks, chunks, num_tiles,
        HEIGHT=blocks.height, BLOCK_M=blocks.all_landmarks,
        BLOCK_C=min(per_pass, next_power_of_2(chunks)), BLOCK_T=min(64, per_pass),
    )  # fmt: skip

    row_of_slot = torch.empty(rows, num_tiles * blocks.height, **as_int)
    _place_kernel[(cdiv(num_rows, 512), rows)](
        expert, rank, base, row_of_slot,
        num_rows, num_landmarks, chunks, blocks.chunk * num_routed, row_of_slot.shape[1],
        BLOCK=512,
    )  # fmt: skip
    return Tiles(row_of_slot, tile_expert, tile_rows, first, total)


def no_tiles(heads: int, device: torch.device) -> Tiles:
    """The empty tiling of compress-only attention, for `heads` = B H."""
    return Tiles(*(torch.empty(heads, 0, dtype=torch.int32, device=device) for _ in range(5)))


def attend(
    query, key, value, landmarks, experts: Experts, tiles: Tiles,
    num_routed, scale, landmark_scale, shared, blocks: Blocks,
):  # fmt: skip
    """-> output [B, H, N, d] and log2 of each query's softmax sum, float32 [B H, N]"""
    batch, heads, tokens, dim = query.shape
    num_landmarks = landmarks.shape[2]
    rows, num_rows = batch * heads, tokens * num_routed
    out = empty_like_query(query)
    lse = torch.empty(rows, tokens, dtype=torch.float32, device=query.device)
    partial = num_routed > 1
    part_out = query.new_empty(rows, num_rows, dim) if partial else out
    part_lse = lse.new_empty(rows, num_rows) if partial else lse
    topk = experts.indices.shape[-1]
    routed = topk > 0
    height = blocks.height if routed else 64
    num_tiles = tiles.expert.shape[1] if routed else cdiv(tokens, height)
    _attend_kernel[(num_tiles, rows)](
        query, key, value, landmarks, experts.values, experts.indices,
        *tiles[:3], part_out, part_lse,
        *query.stride(), *key.stride(), *value.stride(), *landmarks.stride(), *out.stride(),
        heads, num_landmarks, topk, num_routed, num_tiles, num_rows,
        scale * LOG2E, landmark_scale * LOG2E,
        D=dim, BLOCK_D=blocks.dim, HEIGHT=height, BLOCK_K=blocks.keys,
        SHARED=shared, ROUTED=routed, PARTIAL=partial,
        PRECISION=precision(query.dtype),
    )  # fmt: skip
    if partial:
        _merge_kernel[(cdiv(tokens, 64), rows)](
            part_out, part_lse, out, lse, *out.stride(), heads, tokens, num_routed,
            D=dim, BLOCK_D=blocks.dim, BLOCK_N=64,
        )  # fmt: skip
    return out, lse


class Saved(NamedTuple):
    """The output, and what the backward pass needs beside the inputs."""

    out: Tensor  # [B, H, N, d]
    lse: Tensor  # log2 of each query's softmax sum, float32 [B H, N]
    experts: Experts
    tiles: Tiles

    def flatten(self) -> list[Tensor]:
        """All tensors, for an operator's results."""
        return [self.out, self.lse, *self.experts, *self.tiles]

    @classmethod
    def unflatten(cls, tensors: list[Tensor]) -> 'Saved':
        """The inverse of `flatten`."""
        out, lse, *rest = tensors
        return cls(out, lse, Experts(*rest[:3]), Tiles(*rest[3:]))


def mita_forward(
    query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor,
    topk: int, num_routed: int, scale: float, landmark_scale: float, shared: bool,
) -> Saved:  # fmt: skip
    """MiTA attention; arguments as in :func:`mita_seg.ops.mita_attention`, none optional."""
    batch, heads, tokens, dim = query.shape
    if not topk:
        num_routed = 1
    blocks = choose_blocks(
        batch * heads, tokens, dim, landmarks.shape[2], topk, num_routed, query.element_size()
    )
    experts = build_experts(key, value, landmarks, topk, scale, shared, blocks)
    if topk:
        tiles = build_tiles(query, landmarks, num_routed, blocks)
    else:
        tiles = no_tiles(batch * heads, query.device)
    out, lse = attend(
        query, key, value, landmarks, experts, tiles,
        num_routed, scale, landmark_scale, shared, blocks,
    )  # fmt: skip
    return Saved(out, lse, experts, tiles)
