"""Gradients through the routed experts: dq, and dk and dv of the keys and values in them.

There are two steps, without atomics. First each expert sums the gradients of its keys and values
over its queries, and writes them as entries. Then the entries of each block of keys are added up.

An entry is the gradient of one key in one expert. The tiles of all experts are divided evenly among
programs. Where several programs share an expert, each has a segment of it, and writes entries of
its own for the expert's keys.

The place of every entry is known before. The entries of a block of keys follow each other, expert
by expert, so that they are one range. The indices of an expert ascend, so that a search finds those
within a block.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..options import MiTAOptions
from .blocks import Blocks, choose_entry_blocks, choose_reduce_blocks, share_experts
from .call_plan import Plan
from .launch import LOG2E, cdiv, next_power_of_2, precision
from .shared_backward import SummaryGradients, reduce_remainder, reduce_values
from .state import State
from .steps import _backward_step, _dot, _load_rows, _store_rows


@triton.jit
def program_of_tile(tile, tiles, programs):
    """Which program takes this tile; program p begins at tile p tiles // programs."""
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

    A step must wait for the one before. So each step finds two bits of the number, by three loads
    that need not wait for each other. The first step chooses among two or four windows of
    WINDOW - 1 indices. The last window ends where the indices end: no later load needs a mask.
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
    ENTRY_BLOCK: tl.constexpr, TOPK_BITS: tl.constexpr, BLOCK_B: tl.constexpr, ALL_M: tl.constexpr,
):  # fmt: skip
    """Writes where the entries of each block of keys and of each expert go.

    shift [B H, blocks, m]: 128 (p - r) + c. Here r is the rank of the expert's first key in the
    block, p the position of its entry, and c how many keys of the expert are in the block. The
    entries of the expert's next segment follow c positions later.
    start [B H, blocks + 1]: position of the first entry of each block.

    A program searches BLOCK_B blocks. A block ends where the next one begins: the end of the last
    one is not known here, unless it is the head's last. The next program starts with it again.
    """
    # Experts [E, G] follow each other along E, which is within a thread: only the sums of groups
    # go from thread to thread.
    E: tl.constexpr = 16  # divides ALL_M
    G: tl.constexpr = ALL_M // E
    o_m = tl.arange(0, G)[None, :] * E + tl.arange(0, E)[:, None]
    m_mask = o_m < num_landmarks
    o_lane = tl.arange(0, BLOCK_B)
    o_b = program * (BLOCK_B - 1) + o_lane
    b_mask = (o_b < num_blocks) & ((o_lane < BLOCK_B - 1) | (o_b == num_blocks - 1))
    # How many indices of each expert are before each block [E, G, B]. Neighbouring lanes search for
    # neighbouring blocks of one expert: such searches load from the same places. The search is in
    # one dimension; with several the compiler would arrange the lanes as the store needs them.
    o_search = tl.arange(0, ALL_M * BLOCK_B)
    o_expert = o_search // BLOCK_B % G * E + o_search // (BLOCK_B * G)
    o_row = tl.minimum(o_expert, num_landmarks - 1) * topk
    o_key = (program * (BLOCK_B - 1) + o_search % BLOCK_B) * ENTRY_BLOCK
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
    b_segments = program_of_tile(b_last, used, expert_programs)
    b_segments += 1 - program_of_tile(b_first, used, expert_programs)
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


@triton.jit
def _reduce_and_place_kernel(
    p_part, p_part_keys, p_part_bias, p_values, p_mean_keys, p_landmarks,
    p_grad_values, p_grad_keys, p_grad_bias, p_value_delta, p_indices, p_tiles, p_first_tile,
    p_shift, p_entry_start,
    s_landmarks_b, s_landmarks_h, s_landmarks_m, s_landmarks_d,
    heads, num_landmarks, splits, reduce_programs, topk, num_blocks, num_tiles, expert_programs,
    scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_M: tl.constexpr,
    SHARED: tl.constexpr, REMAINDER: tl.constexpr, ROUTED: tl.constexpr,
    ENTRY_BLOCK: tl.constexpr, TOPK_BITS: tl.constexpr, BLOCK_B: tl.constexpr, ALL_M: tl.constexpr,
):  # fmt: skip
    """Sums the gradients of the summaries and, in the same launch, finds places of entries.

    Grid (programs that sum, then programs that search; B H).
    """
    program, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if program < reduce_programs:
        if SHARED:
            reduce_values(
                program, head, p_part, p_values, p_grad_values, p_value_delta,
                num_landmarks, splits, D, BLOCK_D, BLOCK_S, BLOCK_M,
            )  # fmt: skip
        if REMAINDER:
            p_landmarks += head // heads * s_landmarks_b + head % heads * s_landmarks_h
            reduce_remainder(
                program, head, p_part, p_part_keys, p_part_bias, p_values, p_mean_keys,
                p_landmarks, p_grad_values, p_grad_keys, p_grad_bias, p_value_delta,
                s_landmarks_m, s_landmarks_d, num_landmarks, splits, scale,
                D, BLOCK_D, BLOCK_S, BLOCK_M,
            )  # fmt: skip
    elif ROUTED:
        _place_entries(
            program - reduce_programs, head, p_indices, p_tiles, p_first_tile,
            p_shift, p_entry_start, num_landmarks, topk, num_blocks, num_tiles, expert_programs,
            ENTRY_BLOCK, TOPK_BITS, BLOCK_B, ALL_M,
        )  # fmt: skip


@triton.jit(do_not_specialize=['first_head'])
def _expert_backward_kernel(
    p_query, p_key, p_value, p_indices, p_grad, p_lse, p_delta, p_route_of_slot, p_tiles,
    p_first_tile, p_shift, p_grad_query, p_entry_key, p_entry_grad_key, p_entry_grad_value,
    s_query_b, s_query_h, s_query_n, s_query_d, s_key_b, s_key_h, s_key_n, s_key_d,
    s_value_b, s_value_h, s_value_n, s_value_d,
    s_grad_b, s_grad_h, s_grad_n, s_grad_d,
    s_grad_query_b, s_grad_query_h, s_grad_query_n, s_grad_query_d,
    first_head, heads, num_tokens, num_landmarks, topk, num_routed, num_tiles, num_blocks,
    num_entries, scale_log2, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    TILE_HEIGHT: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    ENTRY_BLOCK: tl.constexpr, WITH_QUERY: tl.constexpr, ADD: tl.constexpr, PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """dK_e and dV_e of each expert, over its queries. Grid (programs, blocks of keys, heads).

    The programs share the tiles evenly, so that one may begin and end within an expert. For each
    expert and one block of keys, it writes its sums as entries of its own [heads, entries, D].
    Reads q and do once per block of keys. If an expert's keys fit one block, it also completes dq:
    it adds the part of the routed experts to that of the shared expert.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    part = tl.program_id(2).to(tl.int64)  # the entries are those of some heads alone
    head = first_head + part
    batch, local = head // heads, head % heads
    p_query += batch * s_query_b + local * s_query_h
    p_key += batch * s_key_b + local * s_key_h
    p_value += batch * s_value_b + local * s_value_h
    p_grad += batch * s_grad_b + local * s_grad_h
    p_grad_query += batch * s_grad_query_b + local * s_grad_query_h
    p_lse += head * num_tokens
    p_delta += head * num_tokens
    p_indices += head * num_landmarks * topk
    p_route_of_slot += head * num_tiles * TILE_HEIGHT
    p_tiles += head * (num_tiles + 1)
    p_first_tile += head * num_landmarks
    p_shift += head * num_blocks * num_landmarks
    p_entry_key += part * num_entries
    p_entry_grad_key += part * num_entries * D
    p_entry_grad_value += part * num_entries * D

    used = tl.load(p_tiles + num_tiles)
    # A step takes BLOCK_Q queries of a tile.
    PARTS: tl.constexpr = TILE_HEIGHT // BLOCK_Q
    first, end = program * used // programs * PARTS, (program + 1) * used // programs * PARTS
    o_q = tl.arange(0, BLOCK_Q)
    o_k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    k_mask = o_k < topk
    o_k = tl.minimum(o_k, topk - 1)  # absent keys repeat the last one; their weights are zero
    b_grad_key = tl.zeros([BLOCK_K, BLOCK_D], dtype=tl.float32)
    b_grad_value = tl.zeros([BLOCK_K, BLOCK_D], dtype=tl.float32)
    # A step's routes and keys, which give the addresses to load, are loaded one step ahead. So its
    # loads need not wait for others, and a second stage runs them while the step before computes.
    packed = tl.load(p_tiles + first // PARTS)
    next_packed = tl.load(p_tiles + min(first + 1, end - 1) // PARTS)
    expert = packed // 256
    o_route = tl.load(p_route_of_slot + first * BLOCK_Q + o_q, mask=o_q < packed % 256, other=-1)
    o_key = tl.load(p_indices + expert * topk + o_k)
    for step in tl.range(first, end, num_stages=STAGES):
        next_expert = next_packed // 256
        completes = (step + 1 == end) | (next_expert != expert)
        q_mask = o_route >= 0
        o_n = tl.maximum(o_route, 0) // num_routed  # absent: query 0, with weights of zero
        b_key = _load_rows(p_key, o_key, s_key_n, s_key_d, None, D, BLOCK_D, WIDE)  # [K, D]
        b_value = _load_rows(p_value, o_key, s_value_n, s_value_d, None, D, BLOCK_D, WIDE)  # [K, D]
        b_query = _load_rows(p_query, o_n, s_query_n, s_query_d, None, D, BLOCK_D, WIDE)  # [Q, D]
        b_grad = _load_rows(p_grad, o_n, s_grad_n, s_grad_d, None, D, BLOCK_D, WIDE)  # [Q, D]
        b_lse = tl.load(p_lse + o_n, mask=q_mask, other=float('inf'))
        b_delta = tl.load(p_delta + o_n)
        next_step = min(step + 1, end - 1)
        q_left = next_packed % 256 - next_step % PARTS * BLOCK_Q
        next_route = tl.load(
            p_route_of_slot + next_step * BLOCK_Q + o_q, mask=o_q < q_left, other=-1
        )
        next_key = tl.load(p_indices + next_expert * topk + o_k)
        next_packed = tl.load(p_tiles + min(step + 2, end - 1) // PARTS)
        if WITH_QUERY and ADD:
            b_shared = _load_rows(
                p_grad_query, o_n, s_grad_query_n, s_grad_query_d, None, D, BLOCK_D, WIDE
            )  # [Q, D]
        b_grad_key, b_grad_value, b_grad_logits = _backward_step(
            b_query, b_grad, b_lse, b_delta, b_key, b_value, None,
            k_mask[:, None], scale_log2, b_grad_key, b_grad_value, PRECISION,
        )  # fmt: skip
        if WITH_QUERY:
            b_grad_query = _dot(tl.trans(b_grad_logits), b_key, None, PRECISION)  # [Q, D]
            b_grad_query *= scale
            if ADD:
                b_grad_query += b_shared.to(tl.float32)
            _store_rows(
                p_grad_query, b_grad_query, o_n, s_grad_query_n, s_grad_query_d, q_mask, D,
                BLOCK_D, WIDE,
            )  # fmt: skip
        if completes:
            first_tile = tl.load(p_first_tile + expert)
            segment = program - program_of_tile(first_tile, used, programs)
            o_key = tl.load(p_indices + expert * topk + o_k)  # again, rather than kept in registers
            o_shift = (o_key // ENTRY_BLOCK) * num_landmarks + expert
            b_shift = tl.load(p_shift + o_shift, mask=k_mask, other=0)
            o_entry = o_k + b_shift // 128 + segment * (b_shift % 128)
            tl.store(p_entry_key + o_entry, o_key, mask=k_mask)
            _store_rows(p_entry_grad_key, b_grad_key * scale, o_entry, D, 1, k_mask, D, BLOCK_D)
            _store_rows(p_entry_grad_value, b_grad_value, o_entry, D, 1, k_mask, D, BLOCK_D)
            b_grad_key = tl.zeros([BLOCK_K, BLOCK_D], dtype=tl.float32)
            b_grad_value = tl.zeros([BLOCK_K, BLOCK_D], dtype=tl.float32)
        expert, o_route, o_key = next_expert, next_route, next_key


@triton.jit(do_not_specialize=['first_head'])
def _accumulate_dkv_kernel(
    p_start, p_entry_key, p_entry_grad_key, p_entry_grad_value, p_grad_key, p_grad_value,
    s_grad_key_b, s_grad_key_h, s_grad_key_n, s_grad_key_d,
    s_grad_value_b, s_grad_value_h, s_grad_value_n, s_grad_value_d,
    first_head, heads, num_tokens, num_entries, num_blocks,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, ADD: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds the entries of each block of keys to dk and dv. Grid (blocks of keys, heads).

    The entries of a block are one range. A product with a 0/1 matrix adds them up, the same for
    keys and values. Reads 2 m k D numbers per head, and reads and writes dk and dv [B, H, N, D].
    """
    block, part = tl.program_id(0), tl.program_id(1).to(tl.int64)
    head = first_head + part
    p_start += head * (num_blocks + 1) + block
    start, end = tl.load(p_start), tl.load(p_start + 1)
    if ADD and start == end:
        return
    batch, local = head // heads, head % heads
    p_grad_key += batch * s_grad_key_b + local * s_grad_key_h
    p_grad_value += batch * s_grad_value_b + local * s_grad_value_h
    p_entry_key += part * num_entries
    p_entry_grad_key += part * num_entries * D
    p_entry_grad_value += part * num_entries * D
    o_n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = o_n < num_tokens
    b_grad_key = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    b_grad_value = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    if ADD:
        b_shared = _load_rows(
            p_grad_key, o_n, s_grad_key_n, s_grad_key_d, n_mask, D, BLOCK_D, WIDE
        )  # [N, D]
        b_grad_key += b_shared.to(tl.float32)
        b_shared = _load_rows(
            p_grad_value, o_n, s_grad_value_n, s_grad_value_d, n_mask, D, BLOCK_D, WIDE
        )  # [N, D]
        b_grad_value += b_shared.to(tl.float32)
    for first in range(start, end, BLOCK_E):
        o_e = first + tl.arange(0, BLOCK_E)
        e_mask = o_e < end
        b_index = tl.load(p_entry_key + o_e, mask=e_mask, other=-1)
        b_keys = _load_rows(p_entry_grad_key, o_e, D, 1, e_mask, D, BLOCK_D)  # [E, D]
        b_values = _load_rows(p_entry_grad_value, o_e, D, 1, e_mask, D, BLOCK_D)  # [E, D]
        b_owner = (o_n[:, None] == b_index[None, :]).to(b_keys.dtype)  # [N, E]
        b_grad_key = tl.dot(b_owner, b_keys, acc=b_grad_key, input_precision=PRECISION)
        b_grad_value = tl.dot(b_owner, b_values, acc=b_grad_value, input_precision=PRECISION)
    _store_rows(p_grad_key, b_grad_key, o_n, s_grad_key_n, s_grad_key_d, n_mask, D, BLOCK_D, WIDE)
    _store_rows(
        p_grad_value, b_grad_value, o_n, s_grad_value_n, s_grad_value_d, n_mask, D, BLOCK_D, WIDE
    )


@triton.jit(do_not_specialize=['first_head'])
def _accumulate_dkv_sparse_kernel(
    p_start, p_entry_key, p_entry_grad_key, p_entry_grad_value, p_grad_key, p_grad_value,
    s_grad_key_b, s_grad_key_h, s_grad_key_n, s_grad_key_d,
    s_grad_value_b, s_grad_value_h, s_grad_value_n, s_grad_value_d,
    first_head, heads, num_entries, num_blocks, blocks_per_program,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_E: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `_accumulate_dkv_kernel`, for m k < N: only keys that are in experts are touched.

    A product with a 0/1 matrix adds up the entries of the same key; the first of them adds the sum
    to dk and dv. Reads 2 m k D numbers per head, and reads and writes at most as much of dk and dv.
    """
    block, part = tl.program_id(0) * blocks_per_program, tl.program_id(1).to(tl.int64)
    head = first_head + part
    p_start += head * (num_blocks + 1)
    start = tl.load(p_start + block)
    end = tl.load(p_start + min(block + blocks_per_program, num_blocks))
    batch, local = head // heads, head % heads
    p_grad_key += batch * s_grad_key_b + local * s_grad_key_h
    p_grad_value += batch * s_grad_value_b + local * s_grad_value_h
    p_entry_key += part * num_entries
    p_entry_grad_key += part * num_entries * D
    p_entry_grad_value += part * num_entries * D
    o_block = tl.arange(0, BLOCK_E)
    earlier = o_block[None, :] < o_block[:, None]
    for first in range(start, end, BLOCK_E):
        o_e = first + o_block
        e_mask = o_e < end
        b_index = tl.load(p_entry_key + o_e, mask=e_mask, other=-1)
        b_keys = _load_rows(p_entry_grad_key, o_e, D, 1, e_mask, D, BLOCK_D)  # [E, D]
        b_values = _load_rows(p_entry_grad_value, o_e, D, 1, e_mask, D, BLOCK_D)  # [E, D]
        b_grad_key = _load_rows(
            p_grad_key, b_index, s_grad_key_n, s_grad_key_d, e_mask, D, BLOCK_D, WIDE
        )
        b_grad_value = _load_rows(
            p_grad_value, b_index, s_grad_value_n, s_grad_value_d, e_mask, D, BLOCK_D, WIDE
        )
        same = b_index[:, None] == b_index[None, :]  # [E, E]
        is_first = tl.sum((same & earlier).to(tl.int32), 1) == 0
        b_same = same.to(b_keys.dtype)
        b_sum = tl.dot(b_same, b_keys, input_precision=PRECISION) + b_grad_key.to(tl.float32)
        _store_rows(
            p_grad_key, b_sum, b_index, s_grad_key_n, s_grad_key_d, e_mask & is_first, D, BLOCK_D,
            WIDE,
        )  # fmt: skip
        b_sum = tl.dot(b_same, b_values, input_precision=PRECISION) + b_grad_value.to(tl.float32)
        _store_rows(
            p_grad_value, b_sum, b_index, s_grad_value_n, s_grad_value_d, e_mask & is_first, D,
            BLOCK_D, WIDE,
        )  # fmt: skip
        tl.debug_barrier()  # the next entries may be the same keys


class Entries(NamedTuple):
    """Where the entries of the experts' keys go, and how the work on them is shared."""

    shift: Tensor  # int32 [B H, blocks of keys, m], as `_place_entries` writes it
    start: Tensor  # int32 [B H, blocks of keys + 1], likewise
    heads_at_once: int  # heads whose entries are written before they are added up
    programs: int  # programs that share the tiles of a head


def reduce_and_place(
    plan: Plan, landmarks: Tensor, state: State, summary: SummaryGradients, tokens: int,
    options: MiTAOptions, blocks: Blocks,
) -> Entries:  # fmt: skip
    """Sums the gradients of the summaries, and finds the places of the entries."""
    all_heads, num_landmarks = state.indices.shape[:2]
    topk = options.topk
    routed, dim = topk > 0, state.values.shape[2]
    key_blocks = cdiv(tokens, blocks.entry_block)
    shift = entry_start = landmarks  # any tensor for what is left out
    if routed:
        shift = plan.scratch(all_heads, key_blocks, num_landmarks, dtype=torch.int32)
        entry_start = plan.scratch(all_heads, key_blocks + 1, dtype=torch.int32)
    heads_at_once, expert_programs = share_experts(blocks, all_heads, tokens, num_landmarks, topk)
    place_programs, place = choose_entry_blocks(blocks.all_landmarks, key_blocks)
    reduce = choose_reduce_blocks(blocks, place['num_warps'])
    reduce_programs = cdiv(num_landmarks, reduce['BLOCK_M']) if options.summarizes else 0
    plan.launch(
        _reduce_and_place_kernel, (reduce_programs + (place_programs if routed else 0), all_heads),
        summary.part_values, summary.part_landmarks, summary.part_bias,
        state.values, state.mean_keys, landmarks,
        summary.values, summary.keys, summary.bias, summary.delta,
        state.indices, state.tiles, state.first_tile, shift, entry_start, *landmarks.stride(),
        landmarks.shape[1], num_landmarks, blocks.backward_splits, reduce_programs, topk,
        key_blocks, state.tiles.shape[1] - 1, expert_programs, options.scale,
        D=dim, BLOCK_D=blocks.dim, SHARED=options.shared, REMAINDER=options.remainder,
        ROUTED=routed, ENTRY_BLOCK=blocks.entry_block,
        TOPK_BITS=topk.bit_length(), ALL_M=blocks.all_landmarks, **reduce, **place,
    )  # fmt: skip
    return Entries(shift, entry_start, heads_at_once, expert_programs)


def grad_routed(
    plan: Plan, grad_query: Tensor, grad_key: Tensor, grad_value: Tensor, query: Tensor,
    key: Tensor, value: Tensor, grad: Tensor, delta: Tensor, state: State, entries: Entries,
    options: MiTAOptions, one_pass: bool, blocks: Blocks, wide: bool,
) -> None:  # fmt: skip
    """Adds the gradients through the routed experts; without summaries, writes them."""
    heads, tokens, dim = query.shape[1:]
    topk, num_routed, adds = options.topk, options.num_routed, options.summarizes
    lse, shift, entry_start = state.lse, entries.shift, entries.start
    heads_at_once, expert_programs = entries.heads_at_once, entries.programs
    common = {
        'D': dim, 'BLOCK_D': blocks.dim, 'PRECISION': precision(query.dtype), 'WIDE': wide
    }  # fmt: skip
    all_heads, num_landmarks = state.indices.shape[:2]
    key_blocks = shift.shape[1]
    # Each program but a head's first may begin within an expert, and so add a segment to it.
    num_entries = (num_landmarks + expert_programs - 1) * topk  # at most
    entry_key = plan.scratch(heads_at_once, num_entries, dtype=torch.int32)
    entry_grad_key, entry_grad_value = plan.scratch(
        2, heads_at_once, num_entries, dim, dtype=query.dtype
    )
    expert_keys = num_landmarks * topk  # keys of all experts
    launch = blocks.expert_backward
    for first_head in range(0, all_heads, heads_at_once):
        part_heads = min(heads_at_once, all_heads - first_head)
        plan.launch(
            _expert_backward_kernel,
            (expert_programs, cdiv(topk, blocks.keys), part_heads),
            query, key, value, state.indices, grad, lse, delta,
            state.route_of_slot, state.tiles, state.first_tile, shift,
            grad_query, entry_key, entry_grad_key, entry_grad_value,
            *query.stride(), *key.stride(), *value.stride(), *grad.stride(), *grad_query.stride(),
            first_head, heads, tokens, num_landmarks, topk, num_routed, state.tiles.shape[1] - 1,
            key_blocks, num_entries, options.scale * LOG2E, options.scale,
            TILE_HEIGHT=blocks.tile_height, BLOCK_Q=launch.block, BLOCK_K=blocks.keys,
            ENTRY_BLOCK=blocks.entry_block,
            WITH_QUERY=one_pass, ADD=adds, STAGES=launch.stages, **common,
            **launch.triton_options,
        )  # fmt: skip
        if adds and expert_keys < tokens:
            key_blocks_per_program = tokens // expert_keys
            plan.launch(
                _accumulate_dkv_sparse_kernel,
                (cdiv(key_blocks, key_blocks_per_program), part_heads),
                entry_start, entry_key, entry_grad_key, entry_grad_value, grad_key, grad_value,
                *grad_key.stride(), *grad_value.stride(),
                first_head, heads, num_entries, key_blocks, key_blocks_per_program,
                BLOCK_E=blocks.accumulate_dkv_sparse.block, **common,
                **blocks.accumulate_dkv_sparse.triton_options,
            )  # fmt: skip
            continue
        plan.launch(
            _accumulate_dkv_kernel, (key_blocks, part_heads),
            entry_start, entry_key, entry_grad_key, entry_grad_value, grad_key, grad_value,
            *grad_key.stride(), *grad_value.stride(),
            first_head, heads, tokens, num_entries, key_blocks,
            BLOCK_N=blocks.entry_block,
            BLOCK_E=min(
                blocks.accumulate_dkv.block,
                max(16, next_power_of_2(cdiv(expert_keys * blocks.entry_block, tokens))),
            ),
            ADD=adds, **common, **blocks.accumulate_dkv.triton_options,
        )  # fmt: skip
