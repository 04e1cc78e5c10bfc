"""Block sizes and launch options of the kernels, in one place: a table for each class of GPUs.

Two things limit block sizes. The first is registers: a block of 4,096 float32 numbers takes 32
registers per thread at four warps, and the backward kernels have five such blocks. The second is
shared memory, where prefetched rows are. There is no autotuning: the first training step must not
be a search. tools/check_kernels.py compiles every entry and compares what it needs with what its
GPUs have.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from .gpu import Gpu
from .launch import cdiv, next_power_of_2

SELECT_SCORES = 1024  # scores that a warp of the selection compares
ROUTE_QUERIES = 64  # queries that a routing program compares with the landmarks at a time
LEFT_OVER = 64  # tokens, such as a class token, that the last program takes beside its own
MERGE_TOKENS = 64  # tokens of a program that merges the outputs of s > 1 experts
REDUCE = {'num_warps': 1}  # few landmarks per program, so that there are many programs
JOINED_ROWS = 32  # queries of a program that gathers the gradients of moved landmarks
MOVED_ROWS = 64  # landmarks that a program of their k-means moves at a time
SMALL_TILE = 32  # queries; with tiles up to this size a program needs few registers
WIDE_ROW = 128  # bytes; longer rows are not prefetched, as they fill shared memory


class LaunchOptions(NamedTuple):
    """How one kernel is launched."""

    block: int  # tokens, queries, keys or entries that a step of its loop takes
    stages: int  # steps whose loads are under way at a time
    maxnreg: int | None = None  # registers per thread, so that more programs run at once
    num_warps: int = 4

    @property
    def triton_options(self) -> dict[str, int | None]:
        """What Triton is told of them."""
        return {
            'num_warps': self.num_warps, 'num_stages': self.stages, 'maxnreg': self.maxnreg
        }  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Options of a class of GPUs for rows of half precision and up to 128 bytes, d <= 64.

    `small`: for tiles of up to 32 queries. `several`: for landmarks or keys that take several
    blocks; their sums stay in registers beside the current block.
    """

    shared_memory: int  # bytes that a program may use on the GPUs of the class
    score_and_route: LaunchOptions
    score_and_route_several: LaunchOptions
    sum_outside: LaunchOptions
    attend_small: LaunchOptions
    attend: LaunchOptions
    attend_several_small: LaunchOptions
    attend_several: LaunchOptions
    shared_backward: LaunchOptions
    shared_backward_several: LaunchOptions
    key_backward: LaunchOptions
    key_backward_several: LaunchOptions
    key_backward_remainder: LaunchOptions  # one more row of each landmark, and its products
    landmark_backward: LaunchOptions
    query_backward_small: LaunchOptions
    query_backward: LaunchOptions
    expert_backward_small: LaunchOptions
    expert_backward: LaunchOptions
    expert_backward_several: LaunchOptions
    accumulate_dkv: LaunchOptions
    accumulate_dkv_sparse: LaunchOptions
    # Programs per multiprocessor among which tokens or tiles are shared: as many as run at once, in
    # the forward pass and in the backward pass.
    programs: int = 3
    backward_programs: int = 2
    wide_block: int = 64  # tokens of a step if their rows are longer than 128 bytes
    # Whether `attend`, with tiles of 64 queries, sums values behind the loads of the next tile. Two
    # tiles' values must fit; wgmma holds two anyway, mma.sync spills.
    attend_values_late: bool = False


# Products use wgmma, which multiplies 64 rows of one warpgroup and reads them from shared memory:
# blocks of 64 everywhere. The shared memory, 227 KiB per program and 228 per multiprocessor, has
# room for three stages.
_HOPPER = Table(
    shared_memory=227 * 1024,
    # Three programs per multiprocessor.
    score_and_route=LaunchOptions(32, 4, 168),
    score_and_route_several=LaunchOptions(64, 3, 168),
    sum_outside=LaunchOptions(64, 2),
    attend_small=LaunchOptions(32, 2, 168, 2),  # mma.sync: wgmma would pad 32 rows to 64
    # Three programs. A third stage, to load two tiles ahead, would leave room for one less.
    attend=LaunchOptions(64, 2, 168),
    # One warp takes half the time of four warps that share rows.
    attend_several_small=LaunchOptions(32, 2, None, 1),
    attend_several=LaunchOptions(64, 2, 128),  # four programs
    shared_backward=LaunchOptions(64, 3),
    shared_backward_several=LaunchOptions(64, 3),
    key_backward=LaunchOptions(64, 3),
    key_backward_several=LaunchOptions(64, 3),
    key_backward_remainder=LaunchOptions(64, 3),
    landmark_backward=LaunchOptions(64, 3),
    query_backward_small=LaunchOptions(16, 3, None, 1),
    query_backward=LaunchOptions(64, 2),
    expert_backward_small=LaunchOptions(
        32, 2, 168
    ),  # few registers, so that three programs run at once
    expert_backward=LaunchOptions(64, 2),
    expert_backward_several=LaunchOptions(32, 2, 168),
    accumulate_dkv=LaunchOptions(64, 3, 168),
    accumulate_dkv_sparse=LaunchOptions(64, 1, 128),  # its loads stay behind its stores
    attend_values_late=True,
)

# mma.sync takes both operands from registers, beside the sums: with steps of more than 32 rows
# registers spill. 164 KiB per multiprocessor have room for three programs of 54. Options were
# compared on an H100 that ran code compiled for sm_80.
_AMPERE = Table(
    shared_memory=163 * 1024,
    score_and_route=LaunchOptions(32, 3, 168),
    score_and_route_several=LaunchOptions(64, 3),
    sum_outside=LaunchOptions(32, 2, None, 8),
    attend_small=LaunchOptions(32, 2, 168, 2),  # a tile of 32 queries: one warp for 16 rows
    attend=LaunchOptions(64, 2, 168),  # three stages, 72 KiB, leave room for two programs
    # One warp takes half the time of four warps that share rows.
    attend_several_small=LaunchOptions(32, 2, None, 1),
    attend_several=LaunchOptions(32, 3, 168),  # three programs; a limit for four spills
    shared_backward=LaunchOptions(32, 3),  # half the time of steps of 64, which spill
    shared_backward_several=LaunchOptions(32, 1),
    key_backward=LaunchOptions(32, 3, 168),
    key_backward_several=LaunchOptions(32, 2, None, 2),
    key_backward_remainder=LaunchOptions(32, 2),
    landmark_backward=LaunchOptions(64, 3),
    query_backward_small=LaunchOptions(16, 3, None, 1),
    query_backward=LaunchOptions(32, 3),
    expert_backward_small=LaunchOptions(32, 2, 168),
    expert_backward=LaunchOptions(32, 2, 168),  # half a tile: a whole one takes 255 registers
    expert_backward_several=LaunchOptions(32, 2, 168),
    accumulate_dkv=LaunchOptions(64, 3, 168),
    accumulate_dkv_sparse=LaunchOptions(32, 1, 128),
    wide_block=32,
)

# The same products, with 100 KiB per multiprocessor: fewer stages where two programs would not
# fit. Three never fit, and two may use all registers.
_ADA = replace(
    _AMPERE,
    shared_memory=99 * 1024,
    attend_small=LaunchOptions(32, 2, None, 2),
    attend=LaunchOptions(64, 2),
    key_backward=LaunchOptions(32, 2),
    expert_backward_small=LaunchOptions(32, 2),
    expert_backward=LaunchOptions(32, 2),
    expert_backward_several=LaunchOptions(32, 2),
    accumulate_dkv=LaunchOptions(64, 2),
    programs=2,
)

# As with wgmma, products read shared memory. For these GPUs the assembler spills under limits of
# registers that are enough on other GPUs.
_BLACKWELL = replace(
    _HOPPER,
    score_and_route=LaunchOptions(32, 3, 168),
    score_and_route_several=LaunchOptions(64, 3),
    attend_small=LaunchOptions(32, 2, None, 2),
    attend=LaunchOptions(64, 2),
    attend_values_late=False,
    attend_several=LaunchOptions(64, 2),
    key_backward_remainder=LaunchOptions(32, 2),
    expert_backward_small=LaunchOptions(32, 2),
    expert_backward=LaunchOptions(32, 2),
    expert_backward_several=LaunchOptions(32, 2),
    accumulate_dkv_sparse=LaunchOptions(64, 1),
)
_BLACKWELL_CONSUMER = replace(
    _ADA,
    score_and_route=LaunchOptions(32, 3),
    score_and_route_several=LaunchOptions(32, 2),
    sum_outside=LaunchOptions(32, 1, None, 8),
    attend_several=LaunchOptions(32, 2),
    key_backward_several=LaunchOptions(32, 2),
    key_backward_remainder=LaunchOptions(32, 1),
    landmark_backward=LaunchOptions(32, 2),
)


def choose_table(gpu: Gpu) -> Table:
    """The table of a GPU's class; for an unknown GPU the largest that its memory has room for."""
    tables: tuple[Table, ...]
    if gpu.capability >= 100:
        tables = _BLACKWELL, _BLACKWELL_CONSUMER
    else:
        tables = _HOPPER, _AMPERE, _ADA
    fitting = [table for table in tables if table.shared_memory <= gpu.shared_memory]
    return (fitting or tables[-1:])[0]


@dataclass(frozen=True)
class Blocks:
    """What one call uses; fixed by shapes, dtype and GPU alone."""

    dim: int  # head dimension, padded to a power of two
    landmarks: int  # landmarks that a kernel takes at a time
    key_backward_landmarks: int  # the same in the backward pass of a remainder's keys
    all_landmarks: int  # every landmark, padded
    keys: int  # keys or landmarks that the attention takes at a time
    entry_block: int  # keys of a block whose entries follow each other
    key_block: int  # keys under one maximum in the selection, 1: none
    searched: int  # maxima that the selection searches; blocks behind them are selected anyway
    score_columns: int  # tokens, and some more, so that each landmark's scores are aligned
    select_warps: int  # of the program that selects one expert's keys
    splits: int  # programs that share the keys of a head
    tokens_per_split: int  # the last one has what is left, at most LEFT_OVER more
    backward_splits: int  # the same in the backward pass
    backward_tokens: int
    tile_height: int  # queries in a tile
    mixed: bool  # whether `attend` has the last landmarks and keys in one piece of 16 columns
    values_late: bool  # whether `attend` sums values behind the loads of the next tile
    value_columns: int  # columns of the values that `attend` multiplies at a time
    chunks: int  # programs that route the queries of a head
    chunk: int  # queries of one of them; the last one has what is left, at most LEFT_OVER more
    programs: int  # programs of the forward pass that run at once
    attend_programs: int  # programs of `attend` that run at once
    backward_programs: int  # programs of the backward pass that run at once
    one_landmark_block: bool  # whether all landmarks fit one block
    one_key_block: bool  # whether the keys of an expert fit one block
    score_and_route: LaunchOptions
    sum_outside: LaunchOptions
    attend: LaunchOptions  # of experts that fit a block each
    attend_several: LaunchOptions
    shared_backward: LaunchOptions
    key_backward: LaunchOptions
    key_backward_remainder: LaunchOptions
    landmark_backward: LaunchOptions
    query_backward: LaunchOptions
    expert_backward: LaunchOptions
    accumulate_dkv: LaunchOptions
    accumulate_dkv_sparse: LaunchOptions


def choose_blocks(
    heads: int,
    tokens: int,
    dim: int,
    landmarks: int,
    topk: int,
    routed: int,
    itemsize: int,
    gpu: Gpu,
) -> Blocks:
    """Blocks for heads = B H; the other numbers are of one head; itemsize in bytes."""
    table = choose_table(gpu)
    limit, padded_dim = _block_limit(itemsize), max(16, next_power_of_2(dim))
    all_landmarks = max(16, next_power_of_2(landmarks))
    block_landmarks = min(limit, all_landmarks)
    keys = min(limit, max(16, next_power_of_2(max(landmarks, topk))))
    wide = padded_dim * itemsize > WIDE_ROW
    one_landmark_block, one_key_block = landmarks <= block_landmarks, topk <= keys
    several = '' if one_landmark_block else '_several'

    def options(kernel: str) -> LaunchOptions:
        return _narrow(getattr(table, kernel), table, dim, itemsize)

    height = tile_height(tokens, landmarks, routed, itemsize) if topk else limit
    score_and_route = options('score_and_route' + several)
    tiles = '_small' if height <= SMALL_TILE else ''
    mixed = False
    attend, columns, attend_programs = options('attend' + tiles), padded_dim, table.programs
    if tiles and attend.num_warps < 4:
        # The sums of a query are in one warp if its blocks are not wider than high.
        attend = attend._replace(num_warps=height // 16)
        columns = min(SMALL_TILE, columns)
        mixed = 0 < landmarks % 16 + topk % 16 <= 16
        rows = _count_rows(landmarks, topk, mixed, attend.block)
        row_bytes = (2 * rows + height) * padded_dim * itemsize
        attend_programs = _count_programs(table, attend, row_bytes)
    expert_backward = options('expert_backward' + (tiles if one_key_block else '_several'))

    all_programs = table.programs * gpu.multiprocessors
    backward_programs = table.backward_programs * gpu.multiprocessors
    programs = heads * cdiv(landmarks, block_landmarks)  # per split
    # Every program of the sort reads the counts of all chunks of its head: at most 64.
    chunk = max(256, next_power_of_2(cdiv(tokens, 64)))
    # Programs that score keys run beside those that route queries: in one wave, if the latter take
    # at most half of the places. With several blocks of landmarks routing takes longer.
    most = tokens if one_landmark_block else 512
    while 2 * heads * _count_parts(tokens, chunk) > all_programs and chunk < most:
        chunk *= 2
    chunks = _count_parts(tokens, chunk) if topk else 0
    counting = heads * chunks
    scoring = all_programs - counting if 2 * counting <= all_programs else all_programs
    tokens_per_split = cdiv(cdiv(max(1, tokens - LEFT_OVER), max(1, scoring // programs)), 64) * 64
    backward_tokens = cdiv(cdiv(tokens, max(1, backward_programs // programs)), 64) * 64
    key_block = _key_block(tokens, topk, score_and_route.block)
    row = searched = next_power_of_2(tokens)  # row: what the longer of two searches looks at
    if key_block > 1:
        searched = _count_searched(cdiv(tokens, key_block), topk)
        row = max(searched, next_power_of_2(topk) * key_block)
    # Whole steps of the kernels that write and read scores, which mask no columns; and sixteen
    # numbers of 4 bytes, so that scores and maxima of a landmark begin at multiples of 64 bytes.
    unit = max(score_and_route.block, table.sum_outside.block, 16 * key_block)
    return Blocks(
        dim=padded_dim,
        landmarks=block_landmarks,
        all_landmarks=all_landmarks,
        keys=keys,
        entry_block=limit,
        key_block=key_block,
        searched=searched,
        score_columns=cdiv(tokens, unit) * unit,
        select_warps=min(16, max(1, row // SELECT_SCORES)),
        splits=_count_parts(tokens, tokens_per_split),
        tokens_per_split=tokens_per_split,
        backward_splits=cdiv(tokens, backward_tokens),
        backward_tokens=backward_tokens,
        tile_height=height,
        mixed=mixed,
        values_late=table.attend_values_late and not tiles and itemsize == 2 and not wide,
        value_columns=columns,
        chunks=chunks,
        chunk=chunk,
        programs=all_programs,
        attend_programs=attend_programs * gpu.multiprocessors,
        backward_programs=backward_programs,
        one_landmark_block=one_landmark_block,
        one_key_block=one_key_block,
        score_and_route=score_and_route,
        sum_outside=options('sum_outside'),
        attend=attend,
        attend_several=options('attend_several' + tiles),
        shared_backward=options('shared_backward' + several),
        key_backward=options('key_backward' + several),
        key_backward_remainder=options('key_backward_remainder'),
        key_backward_landmarks=min(32, block_landmarks) if wide else block_landmarks,
        landmark_backward=options('landmark_backward'),
        query_backward=options('query_backward' + tiles),
        expert_backward=expert_backward._replace(block=min(expert_backward.block, height)),
        accumulate_dkv=options('accumulate_dkv'),
        accumulate_dkv_sparse=options('accumulate_dkv_sparse'),
    )


def _count_parts(tokens: int, size: int) -> int:
    """Programs that share tokens, `size` for each; the last one may have LEFT_OVER more."""
    return max(1, cdiv(tokens - LEFT_OVER, size))


def _count_searched(num_blocks: int, topk: int) -> int:
    """Maxima of blocks that the selection of `topk` keys searches, a power of two.

    It selects blocks up to a power of two. If half of the padded maxima are enough, and the blocks
    behind them fit beside the `topk` best of the others, those are selected unsearched: 1,025
    tokens are searched as quickly as 1,024.
    """
    padded = next_power_of_2(num_blocks)
    fits = topk + num_blocks - padded // 2 <= next_power_of_2(topk)
    return padded // 2 if topk <= padded // 2 and fits else padded


def _count_rows(landmarks: int, topk: int, mixed: bool, block: int) -> int:
    """Rows of landmarks and keys that `attend` holds, each filled up in pieces of `block` or 16."""
    if mixed:
        return landmarks // 16 * 16 + topk // 16 * 16 + 16
    rows = 0
    for count in (landmarks, topk):
        rest = count % block
        rows += count - rest + (0 if not rest else 16 if rest <= 16 else block)
    return rows


def _count_programs(table: Table, options: LaunchOptions, row_bytes: int) -> int:
    """Programs that run at once on a multiprocessor, each with `row_bytes` of shared memory.

    A multiprocessor has 1 KiB more than a program may use. For each program 1 KiB is reserved, and
    2 KiB are for changes of layout.
    """
    by_memory = (table.shared_memory + 1024) // (row_bytes + 3 * 1024)
    warps = 16384 // (32 * (options.maxnreg or 256))  # of each of four schedulers
    return max(1, min(by_memory, 4 * warps // options.num_warps))


def _narrow(options: LaunchOptions, table: Table, dim: int, itemsize: int) -> LaunchOptions:
    """Options for rows of other lengths and dtypes than the table's.

    Rows longer than 128 bytes are not prefetched: a few blocks of them fill shared memory. More of
    them are in registers instead; so are the products of float32, which has no tensor cores. With
    limits of registers below 168 these spill. The addresses of rows that are filled up to a power
    of two spill, too.
    """
    padded = max(16, next_power_of_2(dim))
    wide = padded * itemsize > WIDE_ROW
    if itemsize == 2 and not wide:
        return options if padded == dim else options._replace(maxnreg=None)
    block = min(table.wide_block if wide else options.block, _block_limit(itemsize))
    limited = itemsize == 4 and options.num_warps == 4 and (options.maxnreg or 0) >= 168
    stages = 1 if wide else options.stages
    return LaunchOptions(block, stages, options.maxnreg if limited else None)


def tile_height(tokens: int, landmarks: int, routed: int, itemsize: int) -> int:
    """Queries in a tile: about as many as an expert has, from 16 to what registers allow.

    Sizes that torch.compile leaves open may be given: they are only compared. The result does not
    depend on the GPU, as the state for the backward pass is laid out in tiles.
    """
    height = 16
    while height < _block_limit(itemsize) and height * landmarks < tokens * routed:
        height *= 2
    return height


def choose_pool_blocks(height: int, width: int) -> dict:
    """Options of the pooling of windows of up to this size.

    A small window is taken without a loop. With a limit of registers the assembler loads all of
    its rows at once; without one it uses 32 registers, and most loads wait for others. Larger
    windows are taken in steps of 128 tokens, prefetched.
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
    """Options of the kernel that adds the landmarks' gradient to a map of this width."""
    block_x = min(64, next_power_of_2(width))
    return {'BLOCK_Y': 64 // block_x, 'BLOCK_X': block_x, 'num_warps': 8}


class ClusterBlocks(NamedTuple):
    """What one call of the landmarks' k-means uses."""

    queries: int  # that join landmarks at a time
    landmarks: int
    join_stages: int  # blocks of landmarks whose loads are under way at a time
    sum_joined: LaunchOptions
    splits: int  # programs that share the queries of a head
    tokens_per_split: int


def choose_cluster_blocks(
    heads: int, tokens: int, dim: int, landmarks: int, itemsize: int, gpu: Gpu
) -> ClusterBlocks:
    """Blocks for heads = B H; the other numbers are of one head; itemsize in bytes.

    One program adds up the splits of a head, so they are few, and none has fewer rows than its
    sums. Steps of 64 queries take twice the registers of steps of 32 (sm_80: 220 and 119). The
    limit is for sm_120, where steps of 32 spill with d = 64 without it, and do not with it.
    """
    block, padded = _block_limit(itemsize), max(16, next_power_of_2(dim))
    block_landmarks = min(block, max(16, next_power_of_2(landmarks)))
    wide = padded * itemsize > WIDE_ROW
    maxnreg = 128 if padded == dim and not wide else None
    programs = choose_table(gpu).programs * gpu.multiprocessors
    splits = max(1, min(16, programs // (heads * cdiv(landmarks, block_landmarks))))
    least = max(256, next_power_of_2(landmarks))
    tokens_per_split = max(least, cdiv(cdiv(tokens, splits), block) * block)
    return ClusterBlocks(
        queries=block,
        landmarks=block_landmarks,
        join_stages=1 if wide or landmarks <= block_landmarks else 3,
        sum_joined=LaunchOptions(32, 1 if wide else 3, maxnreg),
        splits=cdiv(tokens, tokens_per_split),
        tokens_per_split=tokens_per_split,
    )


def choose_entry_blocks(all_landmarks: int, key_blocks: int) -> tuple[int, dict]:
    """Programs that search for the entries of `key_blocks` blocks of keys, and their options.

    Neighbouring lanes search for neighbouring blocks of one expert, so that they mostly load from
    the same lines. With eight searches per thread the loads of one run beside those of others; with
    many landmarks sixteen are needed, as else there would be too many warps, and still fit 128
    registers. Two neighbouring programs share a block: one has its beginning, the other its end.
    """
    block_b, searches = (8, 8) if all_landmarks <= 128 else (min(16, 8192 // all_landmarks), 16)
    num_warps = max(1, all_landmarks * block_b // (32 * searches))
    programs = max(1, cdiv(key_blocks - 1, block_b - 1))
    return programs, {'BLOCK_B': block_b, 'num_warps': num_warps}


def choose_reduce_blocks(blocks: Blocks, num_warps: int) -> dict:
    """Sizes of blocks of the sums over the splits of the backward pass.

    A thread adds up to 16 splits of 16 bytes, loaded at once, and exchanges nothing with others.
    """
    return {
        'BLOCK_S': min(16, next_power_of_2(blocks.backward_splits)),
        'BLOCK_M': max(1, num_warps * 128 // blocks.dim),
    }


def choose_merge_blocks(splits: int) -> dict:
    """Splits and landmarks that a program adds up at a time: all of one landmark, or four rows.

    Eight rows were no faster, and sixteen leave room for fewer of the programs that select.
    """
    block = min(16, next_power_of_2(splits))
    return {'BLOCK_S': block, 'BLOCK_M': max(1, 4 // block)}


def share_tiles(programs: int, heads: int, tiles: int) -> int:
    """Programs among which the tiles of a head are shared, if `programs` run at once.

    A wave that is partly filled takes as long as a full one. A program starts with loads that take
    about as long as one tile.
    """
    most = min(tiles, max(1, 4 * programs // heads))
    return min(
        range(1, most + 1),
        key=lambda shares: cdiv(heads * shares, programs) * (cdiv(tiles, shares) + 1),
    )


def share_experts(
    blocks: Blocks, heads: int, tokens: int, landmarks: int, topk: int
) -> tuple[int, int]:
    """Heads whose experts' gradients are computed at once, and the programs of each head.

    If experts overlap much, their gradients take more memory than those of the keys: then half of
    the heads are taken at a time. The programs share the tiles of a head, for each block of keys.
    There are at most as many as experts, so that each of them has a tile.
    """
    heads = cdiv(heads, 2) if landmarks * topk > tokens else heads
    small = blocks.expert_backward.block <= SMALL_TILE
    programs = blocks.programs if small else blocks.backward_programs
    key_blocks = max(1, cdiv(topk, blocks.keys))
    return heads, min(landmarks, max(1, programs // (heads * key_blocks)))


def _block_limit(itemsize: int) -> int:
    """The largest block; smaller for float32, whose products are in registers."""
    return 64 if itemsize == 2 else 32


def _key_block(tokens: int, topk: int, largest: int) -> int:
    """Keys under one maximum: about sqrt(N / k), which balances the two selections."""
    block = 1
    if tokens > 512 and topk:
        while block < largest and 2 * block * block * topk < tokens:
            block *= 2
    return block
