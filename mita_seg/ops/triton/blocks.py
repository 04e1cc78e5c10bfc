"""Block sizes of the kernels, in one place.

Products of two block sizes bound the registers of a program: 8,192 float32 entries are 64 registers
a thread at four warps. No autotuning: the first training step must not be a search.
"""

from dataclasses import dataclass

from .launch import cdiv, next_power_of_2


@dataclass(frozen=True)
class Blocks:
    """What one call uses; fixed by shapes alone."""

    dim: int  # head dimension, padded to a power of two
    landmarks: int  # landmarks that a kernel holds at a time
    all_landmarks: int  # every landmark, padded: the routing compares them all at once
    keys: int  # keys or landmarks that the attention takes at a time
    rows: int  # keys, queries or entries that a backward kernel takes at a time
    score_keys: int  # keys that the score kernel takes at a time
    key_block: int  # keys under one maximum in the selection, 1: none
    splits: int  # programs that share the keys of a head
    tokens_per_split: int
    height: int  # queries in a tile
    chunk: int  # queries that one routing program counts
    query_block: int  # queries that the routing takes at a time


def choose_blocks(
    heads: int, tokens: int, dim: int, landmarks: int, topk: int, routed: int, itemsize: int
) -> Blocks:
    """heads = B H, itemsize in bytes; all other arguments are a head's."""
    # Blocks of rows stay in shared memory, a few at a time: 64 rows of up to 256 bytes.
    row_bytes = max(16, next_power_of_2(dim)) * itemsize
    rows = 64 if row_bytes <= 256 else 32
    score_keys = 128 if row_bytes <= 128 else rows
    all_landmarks = max(16, next_power_of_2(landmarks))
    # Enough programs for two waves of 132 multiprocessors, in whole steps of 128 keys.
    landmark_blocks = cdiv(landmarks, rows)
    splits = max(1, min(cdiv(tokens, 128), 512 // (heads * landmark_blocks)))
    tokens_per_split = cdiv(cdiv(tokens, splits), 128) * 128
    # As many rows as an expert has on average, within what the tensor cores and registers like.
    height = min(128, max(16, next_power_of_2(cdiv(tokens * routed, landmarks))))
    query_block = max(16, min(128, 8192 // all_landmarks))
    chunk = max(query_block, min(1024, next_power_of_2(cdiv(tokens * heads, 512))))
    return Blocks(
        dim=max(16, next_power_of_2(dim)),
        landmarks=min(rows, all_landmarks),
        all_landmarks=all_landmarks,
        keys=min(rows, max(16, next_power_of_2(max(landmarks, topk)))),
        rows=rows,
        score_keys=score_keys,
        key_block=_key_block(tokens, topk, score_keys),
        splits=cdiv(tokens, tokens_per_split),
        tokens_per_split=tokens_per_split,
        height=height,
        chunk=chunk,
        query_block=query_block,
    )


def _key_block(tokens: int, topk: int, largest: int) -> int:
    """About sqrt(N / k), which balances block maxima against entries; short rows are kept whole."""
    block = 1
    if tokens > 1024 and topk:
        while block < largest and block * block * topk < tokens:
            block *= 2
    return block
