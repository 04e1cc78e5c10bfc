"""Block sizes and launch options of the kernels, in one place.

Products of two block sizes bound the registers of a program: 4,096 float32 entries are 32 registers
a thread at four warps, and the backward kernels hold five such blocks. No autotuning: the first
training step must not be a search.
"""

from dataclasses import dataclass

from .launch import cdiv, next_power_of_2

# Programs that share the tokens or tiles: as many as run at once, three and two a multiprocessor.
PROGRAMS, BACKWARD_PROGRAMS = 396, 264
PROBE = {'num_warps': 4, 'maxnreg': 168}  # three programs a multiprocessor
ATTEND = {'num_warps': 4}
BACKWARD = {'num_warps': 4}
REDUCE = {'num_warps': 1}  # few landmarks a program, so that there are many programs
# Stages of the loops over tiles or their blocks of keys: with a third one the rows of two tiles
# ahead fill shared memory, and a program fewer fits a multiprocessor.
TILE_STAGES = 2
# Registers of `attend` with half-precision rows of up to 64, in several blocks: four programs.
ATTEND_BLOCKS = {'maxnreg': 128}
# Registers of the folds of half-precision rows of up to 64: three and four programs at a time.
FOLD, FOLD_SPARSE = {'maxnreg': 168}, {'maxnreg': 128}
PROBE_QUERIES = 64  # that a routing program compares with the landmarks at a time
MERGE_TOKENS = 64  # of a program that brings the s > 1 experts of queries together
LOW = 32  # rows of a tile with which a program needs few registers, so that more run at once


@dataclass(frozen=True)
class Blocks:
    """What one call uses; fixed by shapes alone."""

    dim: int  # head dimension, padded to a power of two
    landmarks: int  # landmarks that a kernel holds at a time
    all_landmarks: int  # every landmark, padded
    keys: int  # keys or landmarks that the attention takes at a time
    rows: int  # keys, queries or entries that a backward kernel takes at a time
    stages: int  # of the loops over tokens: loads in flight
    tile_stages: int  # the same of the loops over tiles
    small_rows: bool  # half precision and up to 64: limits of registers leave room for them
    key_block: int  # keys under one maximum in the selection, 1: none
    select_warps: int  # of the program that selects one expert's keys
    splits: int  # programs that share the keys of a head
    tokens_per_split: int
    backward_splits: int  # the same in the backward pass
    backward_tokens: int
    height: int  # queries in a tile
    chunk: int  # queries that one routing program counts


def choose_blocks(
    heads: int, tokens: int, dim: int, landmarks: int, topk: int, routed: int, itemsize: int
) -> Blocks:
    """heads = B H, itemsize in bytes; all other arguments are a head's."""
    # Blocks of rows stay in shared memory, a few at a time: 64 rows of up to 256 bytes.
    row_bytes = max(16, next_power_of_2(dim)) * itemsize
    stages = 3 if row_bytes <= 128 else 1
    rows = _rows(itemsize)
    all_landmarks = max(16, next_power_of_2(landmarks))
    block_landmarks = min(rows, all_landmarks)
    programs = heads * cdiv(landmarks, block_landmarks)  # a split
    # Every program of the sort reads the counts of all chunks of its head: at most 64.
    chunk = max(256, next_power_of_2(cdiv(tokens, 64)))
    if heads * tokens >= chunk * PROGRAMS:  # enough of them: longer ones
        chunk = max(512, chunk)
    counting = heads * cdiv(tokens, chunk) if topk else 0
    # Those that score keys run beside those that count queries: in one wave if these leave half.
    scoring = PROGRAMS - counting if 2 * counting <= PROGRAMS else PROGRAMS
    tokens_per_split = cdiv(cdiv(tokens, max(1, scoring // programs)), 128) * 128
    backward_tokens = cdiv(cdiv(tokens, max(1, BACKWARD_PROGRAMS // programs)), 64) * 64
    key_block = _key_block(tokens, topk, rows)
    row = next_power_of_2(tokens)  # scores that a program of the selection compares
    if key_block > 1:
        row = max(row // key_block, next_power_of_2(topk) * key_block)
    return Blocks(
        dim=max(16, next_power_of_2(dim)),
        landmarks=block_landmarks,
        all_landmarks=all_landmarks,
        keys=min(rows, max(16, next_power_of_2(max(landmarks, topk)))),
        rows=rows,
        stages=stages,
        tile_stages=min(TILE_STAGES, stages),
        small_rows=itemsize == 2 and row_bytes <= 128,
        key_block=key_block,
        select_warps=min(16, max(1, row // 1024)),
        splits=cdiv(tokens, tokens_per_split),
        tokens_per_split=tokens_per_split,
        backward_splits=cdiv(tokens, backward_tokens),
        backward_tokens=backward_tokens,
        height=tile_height(tokens, landmarks, routed, itemsize),
        chunk=chunk,
    )


def tile_height(tokens: int, landmarks: int, routed: int, itemsize: int) -> int:
    """As many rows as an expert has on average, within what tensor cores and registers like.

    Sizes that torch.compile leaves open may be given: they are only compared.
    """
    height = 16
    while height < _rows(itemsize) and height * landmarks < tokens * routed:
        height *= 2
    return height


def choose_pool_blocks(height: int, width: int) -> dict:
    """Options of the pooling of windows of up to this size.

    A small window is taken without a loop. A limit of registers has the assembler load all of its
    rows at once: left to itself it keeps to 32 registers, and most loads wait for others. Larger
    windows go by 128 tokens at a time, prefetched.
    """
    largest = max(height, width)
    if largest <= 16:
        block_x, num_warps = (8, 1) if largest <= 8 else (16, 4)
        return {
            'ONE_BLOCK': True, 'BLOCK_Y': height, 'BLOCK_X': block_x, 'STAGES': 1,
            'num_warps': num_warps, 'maxnreg': 128,
        }  # fmt: skip
    block_x = min(64, next_power_of_2(width))
    block_y = max(1, min(next_power_of_2(height), 128 // block_x))
    return {
        'ONE_BLOCK': False, 'BLOCK_Y': block_y, 'BLOCK_X': block_x, 'STAGES': 3,
        'num_warps': 4, 'maxnreg': None,
    }  # fmt: skip


def choose_pool_backward_blocks(width: int) -> dict:
    """Options of the kernel that adds the landmarks' gradient to 64 tokens of a map so wide."""
    block_x = min(64, next_power_of_2(width))
    return {'BLOCK_Y': 64 // block_x, 'BLOCK_X': block_x, 'num_warps': 8}


def choose_entry_blocks(all_landmarks: int, key_blocks: int) -> tuple[int, dict]:
    """Programs that search for the entries of so many blocks of keys, and their options.

    Neighbouring lanes search for neighbouring blocks of one expert, so that they mostly load from
    the same lines. Eight searches a thread hide each other's loads, and sixteen still fit 128
    registers, where so many landmarks would take too many warps. Programs share a block: one has
    its beginning and the other its end.
    """
    block_b, searches = (8, 8) if all_landmarks <= 128 else (min(16, 8192 // all_landmarks), 16)
    num_warps = max(1, all_landmarks * block_b // (32 * searches))
    programs = max(1, cdiv(key_blocks - 1, block_b - 1))
    return programs, {'BLOCK_B': block_b, 'num_warps': num_warps}


def choose_reduce_blocks(blocks: Blocks, num_warps: int) -> dict:
    """Sizes of blocks of the sums over the splits of the backward pass.

    A thread adds up to 16 splits of 16 bytes, all on their way at once, and nothing with others.
    """
    return {
        'BLOCK_S': min(16, next_power_of_2(blocks.backward_splits)),
        'BLOCK_M': max(1, num_warps * 128 // blocks.dim),
    }


def share_experts(
    blocks: Blocks, heads: int, tokens: int, landmarks: int, topk: int
) -> tuple[int, int]:
    """How many heads the gradients of the experts take at once, and the programs of each.

    Where experts overlap much, their gradients are larger than those of the keys: half the heads at
    once. The programs share the tiles of a head, for each block of keys; they are as many as
    experts at most, so that each of them has a tile.
    """
    heads = cdiv(heads, 2) if landmarks * topk > tokens else heads
    programs = PROGRAMS if blocks.height <= LOW else BACKWARD_PROGRAMS
    key_blocks = max(1, cdiv(topk, blocks.keys))
    return heads, min(landmarks, max(1, programs // (heads * key_blocks)))


def _rows(itemsize: int) -> int:
    """float32 has no tensor cores: registers hold its products."""
    return 64 if itemsize == 2 else 32


def _key_block(tokens: int, topk: int, largest: int) -> int:
    """About sqrt(N / k), which balances block maxima against entries; short rows are kept whole."""
    block = 1
    if tokens > 512 and topk:
        while block < largest and 2 * block * block * topk < tokens:
            block *= 2
    return block
