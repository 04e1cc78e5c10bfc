"""The bandwidth bound: the least time in which memory moves what a computation reads and writes.

For attention these are its inputs and its output, for a kernel the bytes of `kernel_bytes`; the
rate is that of a large copy.
"""

from typing import NamedTuple

import torch

from mita_seg.ops.triton.blocks import choose_blocks
from mita_seg.ops.triton.gpu import Gpu
from mita_seg.ops.triton.launch import cdiv
from mita_seg.utils.timing import Timer

from .cases import HEAD_DIM, Case

_COPIED_BYTES = {'cuda': 2**30, 'cpu': 2**28}  # far more than the caches have room for
_NUMBER = 4  # bytes of an index or count (int32), and of a sum (float32)


def copy_rate(device, rounds):
    """Bytes read plus bytes written a second by a large copy within the device.

    Args:
        device (torch.device): The device.
        rounds (int): Samples, of which the median counts.
    """
    size = _COPIED_BYTES[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / Timer(lambda: target.copy_(source), device).median(rounds)


def forward_bound(case, dtype, rate):
    """Seconds to read query, key and value once and to write the output once.

    Args:
        case (Case): The sizes.
        dtype (torch.dtype): Of all four.
        rate (float): Bytes read plus written a second.
    """
    return 4 * case.heads * case.tokens * HEAD_DIM * dtype.itemsize / rate


class Traffic(NamedTuple):
    """Bytes of one forward or backward pass, all launches of a kernel together."""

    read: int
    written: int


def kernel_bytes(
    case: Case, dtype: torch.dtype, selected: int, segments: int, gpu: Gpu
) -> dict[str, Traffic]:
    """Bytes that the kernels of pooled attention have to read and to write, each byte once.

    Tensors have the same names as in `mita_seg.ops.triton`. A kernel that reads what it
    wrote itself does not read it here. Three small numbers are upper bounds that the data may
    undercut: the tiles in use, the indices that a binary search looks at, and the places that
    entries are looked up at.

    Args:
        case: The sizes; one routed expert a query and a shared expert, no class token.
        dtype: Of query, key and value.
        selected: Keys that some expert of their head selects, all heads together.
        segments: Parts that the experts of all heads fall into where programs share their tiles in
            the backward pass. Like `selected`, it depends on the data.
        gpu: That sizes of blocks are chosen for.

    Returns:
        By the names of the kernels that run.
    """
    tokens, heads, m = case.tokens, case.heads, case.landmarks
    k = min(case.topk, tokens)
    blocks = choose_blocks(heads, tokens, HEAD_DIM, m, k, 1, dtype.itemsize, gpu)
    one_landmark_block = blocks.one_landmark_block
    one_pass = one_landmark_block and blocks.one_key_block
    row, row_of_sums = HEAD_DIM * dtype.itemsize, HEAD_DIM * _NUMBER

    # A row a token: [B H, N, d].
    query = key = value = out = heads * tokens * row
    grad = grad_query = grad_key = grad_value = query
    # A number per token: [B H, N].
    delta = route_expert = route_rank = route_of_slot = heads * tokens * _NUMBER
    lse = heads * tokens * 2 * dtype.itemsize  # float32, or float64 beside float32
    # A row or a number per landmark: [B H, m, d] or [B H, m].
    landmarks = values = grad_values = heads * m * row
    grad_landmarks = heads * m * row_of_sums  # float32
    value_delta = first_tile = heads * m * _NUMBER
    landmark_lse = heads * m * 2 * dtype.itemsize
    # The experts' keys: [B H, m, k], and rows of the keys that they select, each once.
    indices = heads * m * k * _NUMBER
    entry_key = segments * k * _NUMBER
    entry_grad_key = entry_grad_value = segments * k * row
    selected_key = selected_value = selected_grad_key = selected_grad_value = selected * row
    tiles = heads * (tokens // blocks.tile_height + m + 1) * _NUMBER
    counts = heads * blocks.chunks * m * _NUMBER
    # Scores [B H, m, N]; with maxima, only those of the k best blocks of each row are looked at.
    scores = scores_looked_at = heads * m * tokens * _NUMBER
    maxima = chosen = 0
    if blocks.key_block > 1:
        chosen = heads * m * k * _NUMBER  # the blocks
        maxima = heads * m * cdiv(tokens, blocks.key_block) * _NUMBER
        scores_looked_at = heads * m * min(tokens, k * blocks.key_block) * _NUMBER
    # Partial sums [B H, splits, m, d] in float32, and two numbers beside each.
    part = heads * blocks.splits * m * row_of_sums
    part_sum = part_max = heads * blocks.splits * m * _NUMBER
    part_values = part_landmarks = part_keys = heads * blocks.backward_splits * m * row_of_sums
    # Where the entries of each block of keys are: [B H, blocks, m] and [B H, blocks + 1].
    key_blocks = cdiv(tokens, blocks.entry_block)
    shift = heads * key_blocks * m * _NUMBER
    shift_looked_at = heads * min(k, key_blocks) * m * _NUMBER
    entry_start = heads * (key_blocks + 1) * _NUMBER
    # Of the starts, the sparse fold looks at those of its programs.
    sparse = m * k < tokens
    blocks_a_program = tokens // (m * k) if sparse else 1
    entry_start_looked_at = heads * (cdiv(key_blocks, blocks_a_program) + 1) * _NUMBER
    used = heads * _NUMBER  # tiles in use

    table = {
        '_pool_kernel': (query, landmarks),
        '_score_and_route_kernel': (
            query + key + value + landmarks,
            scores + maxima + part + part_sum + part_max + route_expert + route_rank + counts,
        ),
        '_topk_and_sort_kernel': (
            maxima + scores_looked_at + part + part_sum + part_max
            + route_expert + route_rank + counts,
            chosen + indices + values + landmark_lse + route_of_slot + tiles + first_tile,
        ),
        '_attend_kernel': (
            query + selected_key + selected_value + landmarks + values + indices + route_of_slot
            + tiles,
            out + lse,
        ),
        '_shared_backward_kernel': (
            query + grad + out + lse + landmarks + values,
            delta + part_values + part_landmarks + (grad_query if one_pass else 0),
        ),
        '_reduce_and_place_kernel': (
            part_values + values + indices + first_tile + used,
            grad_values + value_delta + shift + entry_start,
        ),
        '_query_backward_kernel': (
            query + selected_key + selected_value + landmarks + values + indices + grad + lse
            + delta + route_of_slot + tiles,
            grad_query,
        ),
        '_key_backward_kernel': (
            key + value + landmarks + landmark_lse + grad_values + value_delta,
            grad_key + grad_value + (part_keys if one_landmark_block else 0),
        ),
        '_landmark_backward_kernel': (
            key + value + landmarks + landmark_lse + grad_values + value_delta,
            part_keys,
        ),
        '_expert_backward_kernel': (
            query + selected_key + selected_value + indices + grad + lse + delta + route_of_slot
            + tiles + first_tile + shift_looked_at + (grad_query if one_pass else 0),
            entry_key + entry_grad_key + entry_grad_value + (grad_query if one_pass else 0),
        ),
        '_accumulate_dkv_sparse_kernel' if sparse else '_accumulate_dkv_kernel': (
            entry_start_looked_at + entry_key + entry_grad_key + entry_grad_value
            + selected_grad_key + selected_grad_value,
            selected_grad_key + selected_grad_value,
        ),
        '_reduce_landmarks_kernel': (part_landmarks + part_keys, grad_landmarks),
        '_pool_backward_kernel': (grad_landmarks + grad_query, grad_query),
    }  # fmt: skip
    if one_pass:
        del table['_query_backward_kernel']
    if one_landmark_block:
        del table['_landmark_backward_kernel']
    return {name: Traffic(*traffic) for name, traffic in table.items()}
