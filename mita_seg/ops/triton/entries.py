"""Where the gradients of each expert's keys go: entries sorted by blocks of keys.

An entry is a key of an expert, or of a segment of it: the tiles of the experts are shared out
evenly, and an expert whose tiles go to several programs has an entry of each key from each of them.
The entries of a block of keys follow each other, expert by expert, so that whoever adds them up
reads one range; since the indices of an expert ascend, its entries within a block are found by
a search.
"""

import triton
import triton.language as tl


@triton.jit
def _program_of_tile(tile, tiles, programs):
    """Which program has this tile; program p begins at tile p tiles // programs."""
    return ((tile + 1) * programs - 1) // tiles


@triton.jit
def _search_step(p_rows, b_key, b_count, STEP: tl.constexpr):
    """Which quarter of the next 4 STEP of the indices the first one not below `b_key` is in."""
    p_next = p_rows + b_count
    for i in tl.static_range(STEP, 4 * STEP, STEP):
        b_count += tl.where(tl.load(p_next + (i - 1)) < b_key, STEP, 0)
    return b_count


@triton.jit
def _count_below(p_rows, topk, b_key, TOPK_BITS: tl.constexpr):
    """How many of the ascending indices [topk] at `p_rows` are below `b_key`; TOPK_BITS: of topk.

    A step waits for the one before, so that each settles two bits of the number, by three loads
    that do not wait for each other. The first step chooses among two or four windows of WINDOW - 1
    indices; the last of these windows ends with the indices, so that no later load needs a mask.
    """
    STEPS: tl.constexpr = (TOPK_BITS - 1) // 2  # after the first one
    WINDOW: tl.constexpr = 1 << (2 * STEPS)
    b_count = tl.zeros_like(b_key)
    for i in tl.static_range(1, 2 if TOPK_BITS % 2 else 4):
        begin = tl.minimum(i * WINDOW, topk - WINDOW + 1)
        b_count = tl.where(tl.load(p_rows + (begin - 1)) < b_key, begin, b_count)
    for i in tl.static_range(STEPS - 1, -1, -1):
        b_count = _search_step(p_rows, b_key, b_count, 1 << (2 * i))
    return b_count


@triton.jit
def _place_entries(
    program, head, p_indices, p_tiles, p_first_tile, p_shift, p_start,
    num_landmarks, topk, num_blocks, num_tiles, expert_programs,
    KEYS: tl.constexpr, TOPK_BITS: tl.constexpr, BLOCK_B: tl.constexpr, ALL_M: tl.constexpr,
):  # fmt: skip
    """shift [B H, blocks, m]: position of an expert's r-th key, if in this block, less r.

    With it comes how many keys the block has of the expert: position times 128 plus the number. The
    next segment's entries follow after as many. start [B H, blocks + 1]: position of the first
    entry of each block.

    A block ends where the next one begins, so that of BLOCK_B blocks searched the last has no end
    here, unless it is the head's last: it is the next program's first.
    """
    # Experts [E, G] follow each other along E, which is within a thread: of the sum over experts
    # only those of groups go from thread to thread.
    E: tl.constexpr = 16  # divides ALL_M
    G: tl.constexpr = ALL_M // E
    o_m = tl.arange(0, G)[None, :] * E + tl.arange(0, E)[:, None]
    m_mask = o_m < num_landmarks
    o_lane = tl.arange(0, BLOCK_B)
    o_b = program * (BLOCK_B - 1) + o_lane
    b_mask = (o_b < num_blocks) & ((o_lane < BLOCK_B - 1) | (o_b == num_blocks - 1))
    # Of the indices of each expert, those before the block [E, G, B]: neighbouring lanes along the
    # blocks of one expert, whose searches begin alike and end near each other. In one dimension,
    # as of several the compiler would take the lanes along that of the store.
    o_search = tl.arange(0, ALL_M * BLOCK_B)
    o_expert = o_search // BLOCK_B % G * E + o_search // (BLOCK_B * G)
    o_row = tl.minimum(o_expert, num_landmarks - 1) * topk
    o_key = (program * (BLOCK_B - 1) + o_search % BLOCK_B) * KEYS
    p_indices += head * num_landmarks * topk
    b_before = _count_below(p_indices + o_row, topk, o_key, TOPK_BITS)
    b_before = tl.reshape(b_before, [E, G, BLOCK_B])
    o_next = tl.minimum(o_lane + 1, BLOCK_B - 1)[None, None, :]
    b_until = tl.gather(b_before, tl.broadcast_to(o_next, [E, G, BLOCK_B]), 2)
    b_until = tl.where((o_b == num_blocks - 1)[None, None, :], topk, b_until)

    used = tl.load(p_tiles + head * (num_tiles + 1) + num_tiles)
    p_first_tile += head * num_landmarks + o_m
    b_first = tl.load(p_first_tile, mask=m_mask, other=0)
    b_next = tl.load(p_first_tile + 1, mask=o_m + 1 < num_landmarks, other=0)
    b_last = tl.where(o_m + 1 < num_landmarks, b_next, used) - 1
    b_segments = _program_of_tile(b_last, used, expert_programs)
    b_segments += 1 - _program_of_tile(b_first, used, expert_programs)
    b_segments = tl.where(m_mask, b_segments, 0)[:, :, None]  # [E, G, 1]

    b_start = tl.sum(tl.sum(b_before * b_segments, 0), 0)  # [B]
    b_count = b_until - b_before
    b_entries = b_count * b_segments
    b_group = tl.sum(b_entries, 0)  # [G, B]
    b_others = tl.cumsum(b_group, 0) - b_group + b_start[None, :]
    b_others = b_others[None, :, :] + tl.cumsum(b_entries, 0) - b_entries  # before this expert's
    p_out = p_shift + (head * num_blocks + o_b)[None, None, :] * num_landmarks + o_m[:, :, None]
    mask = b_mask[None, None, :] & m_mask[:, :, None]
    tl.store(p_out, (b_others - b_before) * 128 + b_count, mask=mask)
    p_start += head * (num_blocks + 1)
    tl.store(p_start + o_b, b_start, mask=b_mask)
    b_end = b_start + tl.sum(b_group, 0)
    tl.store(p_start + o_b + 1, b_end, mask=o_b == num_blocks - 1)
