"""What the forward pass leaves for the backward pass beside the output, in one tensor of bytes."""

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ..options import MiTAOptions
from .blocks import tile_height
from .call_plan import aligned


class State(NamedTuple):
    """Landmarks, softmax sums, the experts, and the rows that each of them serves.

    A row is a query and one of its experts: row n s + j of N s. What an option leaves out is empty.
    """

    landmarks: Tensor  # pooled [B, H, m, d]; empty where they were given
    lse: Tensor  # log2 of each query's softmax sum [B H, N], of twice the bytes of the input
    values: Tensor  # shared values [B H, m, d], dtype of the input
    landmark_lse: Tensor  # log2 of the sum of exp(c S) of each landmark, likewise [B H, m]
    indices: Tensor  # keys of each expert, int32 [B H, m, k], ascending
    row_of_slot: Tensor  # rows grouped by expert, int32 [B H, tiles * height]
    # Of each tile, 256 times the expert plus the number of rows; at the end, how many are in use.
    tiles: Tensor  # int32 [B H, tiles + 1]
    first_tile: Tensor  # of each expert, int32 [B H, m]


def count_landmarks(landmarks: Tensor | None, options: MiTAOptions) -> int:
    """m; of landmarks that are given, or of those that the options say how to pool."""
    return options.pooling.num_landmarks if landmarks is None else landmarks.shape[2]


def lay_out(
    query: Tensor, landmarks: Tensor | None, options: MiTAOptions
) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Shapes and dtypes of a State; the sizes may be ones that torch.compile leaves open."""
    batch, heads, tokens, dim = query.shape
    topk, shared = options.topk, options.shared
    num_landmarks = count_landmarks(landmarks, options)
    rows = batch * heads
    height = tile_height(tokens, num_landmarks, options.num_routed, query.element_size())
    num_tiles = tokens * options.num_routed // height + num_landmarks if topk else 0
    # Sums of hundreds, rounded to float32, would change all weights of a float32 row alike.
    lse = torch.float64 if query.dtype == torch.float32 else torch.float32
    shared_size, routed_size = num_landmarks if shared else 0, num_landmarks if topk else 0
    return [
        ((batch, heads, num_landmarks if landmarks is None else 0, dim), query.dtype),
        ((rows, tokens), lse),
        ((rows, shared_size, dim), query.dtype),
        ((rows, shared_size), lse),
        ((rows, num_landmarks, topk), torch.int32),
        ((rows, num_tiles * height), torch.int32),
        ((rows, num_tiles + 1), torch.int32),
        ((rows, routed_size), torch.int32),
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
