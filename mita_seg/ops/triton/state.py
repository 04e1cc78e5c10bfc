"""What the forward pass keeps for the backward pass, beside the output, in one tensor of bytes."""

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ..options import MiTAOptions
from .blocks import tile_height
from .call_plan import aligned


class State(NamedTuple):
    """Landmarks, softmax sums, the experts, and the routes to each of them.

    A route is a query and one of its experts: route n s + j of N s. What an option leaves out is
    empty; the last four are a remainder's.
    """

    landmarks: Tensor  # pooled [B, H, m, d]; empty where they were given
    lse: Tensor  # log2 of each query's softmax sum [B H, N], in twice the bytes of the input
    values: Tensor  # shared values, or the remainder's [B H, m, d], dtype of the input
    # log2 of the sum of exp(c S) of each landmark [B H, m], as lse; over the keys that these are of
    landmark_lse: Tensor
    indices: Tensor  # keys of each expert, int32 [B H, m, k], ascending
    route_of_slot: Tensor  # routes grouped by expert, int32 [B H, tiles * height]
    # For each tile, 256 times the expert plus the number of routes; at the end, the tiles in use.
    tiles: Tensor  # int32 [B H, tiles + 1]
    first_tile: Tensor  # of each expert, int32 [B H, m]
    mean_keys: Tensor  # the remainder's [B H, m, d], dtype of the input
    bias: Tensor  # the remainder's [B H, m], base 2, as lse
    outside: Tensor  # a bit for each key, 1 outside of the expert, int32 [B H, ceil(N / 32), m]
    routes: Tensor  # expert of each query, int32 [B H, N]


def count_landmarks(landmarks: Tensor | None, options: MiTAOptions) -> int:
    """m, of landmarks that are given or that are pooled."""
    if landmarks is not None:
        return landmarks.shape[2]
    assert options.pooling is not None
    return options.pooling.num_landmarks


def lay_out(
    query: Tensor, landmarks: Tensor | None, options: MiTAOptions
) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Shapes and dtypes of a State; the sizes may be ones that torch.compile leaves open."""
    batch, heads, tokens, dim = query.shape
    topk, remainder = options.topk, options.remainder
    num_landmarks = count_landmarks(landmarks, options)
    all_heads = batch * heads
    height = tile_height(tokens, num_landmarks, options.num_routed, query.element_size())
    num_tiles = tokens * options.num_routed // height + num_landmarks if topk else 0
    # An lse of some hundreds, rounded to float32, would change all weights of a query alike.
    lse = torch.float64 if query.dtype == torch.float32 else torch.float32
    summary_size = num_landmarks if options.summarizes else 0
    routed_size, remainder_size = num_landmarks if topk else 0, num_landmarks if remainder else 0
    return [
        ((batch, heads, num_landmarks if landmarks is None else 0, dim), query.dtype),
        ((all_heads, tokens), lse),
        ((all_heads, summary_size, dim), query.dtype),
        ((all_heads, summary_size), lse),
        ((all_heads, num_landmarks, topk), torch.int32),
        ((all_heads, num_tiles * height), torch.int32),
        ((all_heads, num_tiles + 1), torch.int32),
        ((all_heads, routed_size), torch.int32),
        ((all_heads, remainder_size, dim), query.dtype),
        ((all_heads, remainder_size), lse),
        ((all_heads, (tokens + 31) // 32, remainder_size), torch.int32),
        ((all_heads, tokens if remainder else 0), torch.int32),
    ]


def empty_state(query: Tensor, layout: list) -> Tensor:
    """Bytes for a State of this layout."""
    size = sum(aligned(prod(shape) * dtype.itemsize) for shape, dtype in layout)
    return query.new_empty(size, dtype=torch.uint8)


def view_state(state: Tensor, layout: list) -> State:
    """The tensors that lie in `state`."""
    views, start = [], 0
    for shape, dtype in layout:
        size = prod(shape) * dtype.itemsize
        views.append(state[start : start + size].view(dtype).view(shape))
        start += aligned(size)
    return State(*views)
