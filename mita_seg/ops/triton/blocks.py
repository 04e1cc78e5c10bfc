"""Block sizes and launch options of the kernels, in one place: a table for each class of GPUs.

Products of two block sizes bound the registers of a program: 4,096 float32 entries are 32 registers
a thread at four warps, and the backward kernels hold five such blocks. What else binds is the
shared memory of a multiprocessor, which prefetched rows fill. No autotuning: the first training
step must not be a search. tools/check_kernels.py compiles every entry and compares what it needs
with what its GPUs have.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from .gpu import Gpu
from .launch import cdiv, next_power_of_2

SELECT_SCORES = 1024  # that a warp of the selection compares
PROBE_QUERIES = 64  # that a routing program compares with the landmarks at a time
MERGE_TOKENS = 64  # of a program that brings the s > 1 experts of queries together
REDUCE = {'num_warps': 1}  # few landmarks a program, so that there are many programs
LOW = 32  # queries of a tile with which a program needs few registers
WIDE_ROW = 128  # bytes; of longer rows nothing is prefetched, as they fill shared memory


class Options(NamedTuple):
    """How one kernel is launched, and what a step of its loop takes."""

    rows: int  # tokens, queries, keys or entries of a step
    stages: int  # steps whose rows are on their way at a time
    maxnreg: int | None = None  # registers per thread, so that more programs run at once
    num_warps: int = 4

    @property
    def launch(self) -> dict:
        """Triton's options."""
        return {
            'num_warps': self.num_warps, 'num_stages': self.stages, 'maxnreg': self.maxnreg
        }  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Options of a class of GPUs for rows of half precision and up to 128 bytes, d <= 64.

    `low`: for tiles of up to 32 queries. `several`: where landmarks or keys take several blocks,
    whose sums live in registers beside the block at hand.
    """

    shared_memory: int  # bytes that a program may use on the GPUs of the class
    probe: Options
    probe_several: Options
    attend_low: Options
    attend: Options
    attend_several_low: Options
    attend_several: Options
    shared_backward: Options
    shared_backward_several: Options
    key_backward: Options
    key_backward_several: Options
    landmark_backward: Options
    query_backward_low: Options
    query_backward: Options
    expert_backward_low: Options
    expert_backward: Options
    expert_backward_several: Options
    fold: Options
    fold_sparse: Options
    # Programs per multiprocessor that share tokens or tiles, as many as run at once: of the forward
    # pass, and of the backward pass.
    programs: int = 3
    backward_programs: int = 2
    wide_rows: int = 64  # rows of a step where rows are longer than 128 bytes


# Products go through wgmma, which multiplies 64 rows of one warpgroup and reads them from shared
# memory: blocks of 64 everywhere. 227 KiB a program and 228 a multiprocessor hold three stages.
_HOPPER = Table(
    shared_memory=227 * 1024,
    # Three programs per multiprocessor.
    probe=Options(32, 4, 168),
    probe_several=Options(64, 3, 168),
    attend_low=Options(32, 2, 168, 2),  # mma.sync: wgmma would pad 32 rows to 64
    # A third stage, the rows of two tiles ahead, leaves room for a program fewer.
    attend=Options(64, 2),
    attend_several_low=Options(32, 2, None, 1),  # half the time of four warps, which share rows
    attend_several=Options(64, 2, 128),  # four programs
    shared_backward=Options(64, 3),
    shared_backward_several=Options(64, 3),
    key_backward=Options(64, 3),
    key_backward_several=Options(64, 3),
    landmark_backward=Options(64, 3),
    query_backward_low=Options(16, 3, None, 1),
    query_backward=Options(64, 2),
    expert_backward_low=Options(32, 2, 168),  # few registers, so that three programs run at once
    expert_backward=Options(64, 2),
    expert_backward_several=Options(32, 2, 168),
    fold=Options(64, 3, 168),
    fold_sparse=Options(64, 1, 128),  # its loads stay behind its stores
)

# mma.sync takes both operands from registers, beside the sums: steps of 32 rows, or ptxas spills.
# 164 KiB a multiprocessor hold three programs of 54. Options were compared on an H100 that ran
# code compiled for sm_80.
_AMPERE = Table(
    shared_memory=163 * 1024,
    probe=Options(32, 3, 168),
    probe_several=Options(64, 3),
    attend_low=Options(32, 2, 168, 2),  # a tile of 32 queries: a warp to 16 rows
    attend=Options(64, 2, 168),  # three stages, 72 KiB, leave room for two programs
    attend_several_low=Options(32, 2, None, 1),  # half the time of four warps, which share rows
    attend_several=Options(32, 3, 168),  # three programs; a limit for four spills
    shared_backward=Options(32, 3),  # half the time of steps of 64, which spill
    shared_backward_several=Options(32, 1),
    key_backward=Options(32, 3, 168),
    key_backward_several=Options(32, 2, None, 2),
    landmark_backward=Options(64, 3),
    query_backward_low=Options(16, 3, None, 1),
    query_backward=Options(32, 3),
    expert_backward_low=Options(32, 2, 168),
    expert_backward=Options(32, 2, 168),  # half a tile: a whole one takes 255 registers
    expert_backward_several=Options(32, 2, 168),
    fold=Options(64, 3, 168),
    fold_sparse=Options(32, 1, 128),
    wide_rows=32,
)

# The same products, with 100 KiB a multiprocessor: fewer stages where two programs would not fit.
# Three never do, and two may have all registers.
_ADA = replace(
    _AMPERE,
    shared_memory=99 * 1024,
    attend_low=Options(32, 2, None, 2),
    attend=Options(64, 2),
    key_backward=Options(32, 2),
    expert_backward_low=Options(32, 2),
    expert_backward=Options(32, 2),
    expert_backward_several=Options(32, 2),
    fold=Options(64, 2),
    programs=2,
)

# As wgmma's, products read shared memory. The assembler of these GPUs spills under limits that
# those of other GPUs keep to.
_BLACKWELL = replace(
    _HOPPER,
    probe=Options(32, 3, 168),
    probe_several=Options(64, 3),
    attend_low=Options(32, 2, None, 2),
    attend_several=Options(64, 2),
    expert_backward_low=Options(32, 2),
    expert_backward=Options(32, 2),
    expert_backward_several=Options(32, 2),
    fold_sparse=Options(64, 1),
)
_BLACKWELL_CONSUMER = replace(
    _ADA,
    probe=Options(32, 3),
    probe_several=Options(32, 2),
    attend_several=Options(32, 2),
    key_backward_several=Options(32, 2),
    landmark_backward=Options(32, 2),
)


def choose_table(gpu: Gpu) -> Table:
    """The table of a GPU's class; of one that is not known, the largest that it has memory for."""
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
    landmarks: int  # landmarks that a kernel holds at a time
    all_landmarks: int  # every landmark, padded
    keys: int  # keys or landmarks that the attention takes at a time
    rows: int  # keys of a block whose entries follow each other
    key_block: int  # keys under one maximum in the selection, 1: none
    select_warps: int  # of the program that selects one expert's keys
    splits: int  # programs that share the keys of a head
    tokens_per_split: int
    backward_splits: int  # the same in the backward pass
    backward_tokens: int
    height: int  # queries in a tile
    columns: int  # of a product with values that `attend` takes at a time
    chunk: int  # queries that one routing program counts
    programs: int  # of the forward pass that run at once
    attend_programs: int  # the same of `attend`
    backward_programs: int
    one_landmark_block: bool  # whether one block holds all landmarks
    one_key_block: bool  # whether one block holds an expert's keys
    probe: Options
    attend: Options  # of experts that fit a block each
    attend_several: Options
    shared_backward: Options
    key_backward: Options
    landmark_backward: Options
    query_backward: Options
    expert_backward: Options
    fold: Options
    fold_sparse: Options


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
    """heads = B H, itemsize in bytes; the numbers between are a head's."""
    table = choose_table(gpu)
    rows, padded_dim = _rows(itemsize), max(16, next_power_of_2(dim))
    all_landmarks = max(16, next_power_of_2(landmarks))
    block_landmarks = min(rows, all_landmarks)
    keys = min(rows, max(16, next_power_of_2(max(landmarks, topk))))
    one_landmark_block, one_key_block = landmarks <= block_landmarks, topk <= keys
    several = '' if one_landmark_block else '_several'

    def options(kernel: str) -> Options:
        return _narrow(getattr(table, kernel), table, dim, itemsize)

    height = tile_height(tokens, landmarks, routed, itemsize) if topk else rows
    probe = options('probe' + several)
    tiles = '_low' if height <= LOW else ''
    attend, columns, attend_programs = options('attend' + tiles), padded_dim, table.programs
    if tiles and attend.num_warps < 4:
        # Sums of a query lie in one warp where its blocks are no wider than high.
        attend = attend._replace(num_warps=height // 16)
        columns = min(LOW, columns)
        pieces = cdiv(landmarks, attend.rows) + cdiv(topk, attend.rows)
        held = (2 * pieces * attend.rows + height) * padded_dim * itemsize
        attend_programs = _count_programs(table, attend, held)
    expert_backward = options('expert_backward' + (tiles if one_key_block else '_several'))

    all_programs = table.programs * gpu.multiprocessors
    backward_programs = table.backward_programs * gpu.multiprocessors
    programs = heads * cdiv(landmarks, block_landmarks)  # a split
    # Every program of the sort reads the counts of all chunks of its head: at most 64.
    chunk = max(256, next_power_of_2(cdiv(tokens, 64)))
    if heads * tokens >= chunk * all_programs:  # enough of them: longer ones
        chunk = max(512, chunk)
    counting = heads * cdiv(tokens, chunk) if topk else 0
    # Those that score keys run beside those that count queries: in one wave if these leave half.
    scoring = all_programs - counting if 2 * counting <= all_programs else all_programs
    tokens_per_split = cdiv(cdiv(tokens, max(1, scoring // programs)), 128) * 128
    backward_tokens = cdiv(cdiv(tokens, max(1, backward_programs // programs)), 64) * 64
    key_block = _key_block(tokens, topk, probe.rows)
    row = next_power_of_2(tokens)  # scores that a program of the selection compares
    if key_block > 1:
        row = max(row // key_block, next_power_of_2(topk) * key_block)
    return Blocks(
        dim=padded_dim,
        landmarks=block_landmarks,
        all_landmarks=all_landmarks,
        keys=keys,
        rows=rows,
        key_block=key_block,
        select_warps=min(16, max(1, row // SELECT_SCORES)),
        splits=cdiv(tokens, tokens_per_split),
        tokens_per_split=tokens_per_split,
        backward_splits=cdiv(tokens, backward_tokens),
        backward_tokens=backward_tokens,
        height=height,
        columns=columns,
        chunk=chunk,
        programs=all_programs,
        attend_programs=attend_programs * gpu.multiprocessors,
        backward_programs=backward_programs,
        one_landmark_block=one_landmark_block,
        one_key_block=one_key_block,
        probe=probe,
        attend=attend,
        attend_several=options('attend_several' + tiles),
        shared_backward=options('shared_backward' + several),
        key_backward=options('key_backward' + several),
        landmark_backward=options('landmark_backward'),
        query_backward=options('query_backward' + tiles),
        expert_backward=expert_backward._replace(rows=min(expert_backward.rows, height)),
        fold=options('fold'),
        fold_sparse=options('fold_sparse'),
    )


def _count_programs(table: Table, options: Options, held: int) -> int:
    """How many programs run at once on a multiprocessor that hold so many bytes of rows."""
    # A multiprocessor has 1 KiB more than a program may use, as much is reserved of each program,
    # and 2 KiB are for changes of layout.
    by_memory = (table.shared_memory + 1024) // (held + 3 * 1024)
    by_registers = 65536 // (32 * options.num_warps * (options.maxnreg or 255))
    return max(1, min(by_memory, by_registers, 16))


def _narrow(options: Options, table: Table, dim: int, itemsize: int) -> Options:
    """Options for other rows than the table's.

    Of rows longer than 128 bytes nothing is prefetched: a few blocks of them fill shared memory.
    Registers hold more of them, and the products of float32, which has no tensor cores: limits
    below 168 had them spill. So do the addresses of rows that are filled up to a power of two.
    """
    padded = max(16, next_power_of_2(dim))
    wide = padded * itemsize > WIDE_ROW
    if itemsize == 2 and not wide:
        return options if padded == dim else options._replace(maxnreg=None)
    rows = min(table.wide_rows if wide else options.rows, _rows(itemsize))
    limited = itemsize == 4 and options.num_warps == 4 and (options.maxnreg or 0) >= 168
    stages = 1 if wide else options.stages
    return Options(rows, stages, options.maxnreg if limited else None)


def tile_height(tokens: int, landmarks: int, routed: int, itemsize: int) -> int:
    """As many rows as an expert has on average, within what tensor cores and registers like.

    Sizes that torch.compile leaves open may be given: they are only compared. The same on every
    GPU, as the state that is kept for the backward pass is laid out in tiles.
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


def share_tiles(programs: int, heads: int, tiles: int) -> int:
    """Programs among which the tiles of a head are shared, where so many run at once.

    What is left over after a full wave of programs takes as long as a wave; a program starts with
    loads that take about as long as a tile does.
    """
    most = min(tiles, max(1, 4 * programs // heads))
    return min(
        range(1, most + 1),
        key=lambda shares: cdiv(heads * shares, programs) * (cdiv(tiles, shares) + 1),
    )


def share_experts(
    blocks: Blocks, heads: int, tokens: int, landmarks: int, topk: int
) -> tuple[int, int]:
    """How many heads the gradients of the experts take at once, and the programs of each.

    Where experts overlap much, their gradients are larger than those of the keys: half the heads at
    once. The programs share the tiles of a head, for each block of keys; they are as many as
    experts at most, so that each of them has a tile.
    """
    heads = cdiv(heads, 2) if landmarks * topk > tokens else heads
    low = blocks.expert_backward.rows <= LOW
    programs = blocks.programs if low else blocks.backward_programs
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
