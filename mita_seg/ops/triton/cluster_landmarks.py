"""Spherical k-means of the queries, beginning at the landmarks, and its gradient.

A step is three launches: queries join landmarks, partial sums of those that joined, moved
landmarks; the last of the three also gives the landmarks of a head equal norms. The gradient of all
steps together is two.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .blocks import JOINED_ROWS, MOVED_ROWS, choose_cluster_blocks
from .call_plan import Plan
from .launch import cdiv, empty_like_query, is_wide, next_power_of_2, precision
from .steps import _dot, _keep_largest, _load_rows, _store_rows

# Shorter rows are divided by it in place of their norm, as F.normalize does.
LEAST_NORM = tl.constexpr(1e-12)


@triton.jit
def _norms(b_rows):
    """Of the rows [R, D] of a block, float32."""
    return tl.sqrt(tl.sum(b_rows * b_rows, 1))


@triton.jit
def _join_kernel(
    p_query, p_landmarks, p_nearest,
    s_query_b, s_query_h, s_query_n, s_query_d,
    s_landmarks_b, s_landmarks_h, s_landmarks_m, s_landmarks_d, s_nearest_head,
    heads, num_tokens, num_landmarks,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The landmark at the smallest angle to each query. Grid (blocks of queries, B H).

    Of several at the same angle it is the first. Reads q once and writes 4 bytes per query.
    """
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    p_query += head // heads * s_query_b + head % heads * s_query_h
    p_landmarks += head // heads * s_landmarks_b + head % heads * s_landmarks_h
    o_n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = o_n < num_tokens
    b_query = _load_rows(p_query, o_n, s_query_n, s_query_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
    b_best = tl.full([BLOCK_N], float('-inf'), dtype=tl.float32)
    b_nearest = tl.zeros([BLOCK_N], dtype=tl.int32)
    for first in range(0, num_landmarks, BLOCK_M):
        o_m = first + tl.arange(0, BLOCK_M)
        m_mask = o_m < num_landmarks
        b_landmarks = _load_rows(
            p_landmarks, o_m, s_landmarks_m, s_landmarks_d, m_mask, D, BLOCK_D, WIDE
        ).to(tl.float32)  # [M, D]
        b_lengths = tl.maximum(_norms(b_landmarks), LEAST_NORM)
        b_directions = (b_landmarks / b_lengths[:, None]).to(b_query.dtype)
        b_scores = _dot(b_query, tl.trans(b_directions), None, PRECISION)  # [N, M]
        b_scores = tl.where(m_mask[None, :], b_scores, float('-inf'))
        b_best, b_nearest = _keep_largest(b_scores, o_m, num_landmarks, b_best, b_nearest)
    b_nearest = tl.minimum(b_nearest, num_landmarks - 1)  # also where scores are NaN
    tl.store(p_nearest + head * s_nearest_head + o_n, b_nearest, mask=n_mask)


@triton.jit
def _sum_joined_kernel(
    p_query, p_nearest, p_part_sums, p_part_counts,
    s_query_b, s_query_h, s_query_n, s_query_d, s_nearest_head,
    heads, num_tokens, num_landmarks, splits, tokens_per_split,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Sums and numbers of the queries that joined a landmark. Grid (splits, blocks, B H).

    A program takes a split of the queries and a block of landmarks. Reads q once for each block and
    writes partial sums [B H, splits, m, D] and numbers [B H, splits, m].
    """
    split, head = tl.program_id(0), tl.program_id(2).to(tl.int64)
    p_query += head // heads * s_query_b + head % heads * s_query_h
    p_nearest += head * s_nearest_head
    o_m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_mask = o_m < num_landmarks
    b_sums = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    b_counts = tl.zeros([BLOCK_M], dtype=tl.int32)
    begin = split * tokens_per_split
    for first in tl.range(
        begin, min(begin + tokens_per_split, num_tokens), BLOCK_N, num_stages=STAGES
    ):
        o_n = first + tl.arange(0, BLOCK_N)
        n_mask = o_n < num_tokens
        b_query = _load_rows(p_query, o_n, s_query_n, s_query_d, n_mask, D, BLOCK_D, WIDE)  # [N, D]
        b_nearest = tl.load(p_nearest + o_n, mask=n_mask, other=-1)
        joined = b_nearest[None, :] == o_m[:, None]  # [M, N]
        b_sums = _dot(joined.to(b_query.dtype), b_query, b_sums, PRECISION)
        b_counts += tl.sum(joined.to(tl.int32), 1)
    o_part = (head * splits + split) * num_landmarks + o_m
    _store_rows(p_part_sums, b_sums, o_part, D, 1, m_mask, D, BLOCK_D)
    tl.store(p_part_counts + o_part, b_counts, mask=m_mask)


@triton.jit
def _move_kernel(
    p_part_sums, p_part_counts, p_landmarks, p_counts, p_moved, p_out,
    s_landmarks_b, s_landmarks_h, s_landmarks_m, s_landmarks_d, s_counts_head,
    heads, num_landmarks, splits,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr,
    JOINED: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Means of the queries of each landmark, and equal norms after the LAST step. Grid (B H).

    A landmark without queries stays; without JOINED all do. Reads the landmarks and the partial
    sums. Writes the moved landmarks [B H, m, D] in float32, how many queries each has, and the
    landmarks of equal norms.
    """
    head = tl.program_id(0).to(tl.int64)
    p_landmarks += head // heads * s_landmarks_b + head % heads * s_landmarks_h
    p_moved += head * num_landmarks * D
    p_out += head * num_landmarks * D
    b_norms = tl.zeros([BLOCK_M], dtype=tl.float32)
    for first in range(0, num_landmarks, BLOCK_M):
        o_m = first + tl.arange(0, BLOCK_M)
        m_mask = o_m < num_landmarks
        b_moved = _load_rows(
            p_landmarks, o_m, s_landmarks_m, s_landmarks_d, m_mask, D, BLOCK_D, WIDE
        ).to(tl.float32)  # [M, D]
        if JOINED:
            b_sums = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
            b_counts = tl.zeros([BLOCK_M], dtype=tl.int32)
            for split in tl.range(splits, loop_unroll_factor=2):  # loads side by side
                o_part = (head * splits + split) * num_landmarks + o_m
                b_sums += _load_rows(p_part_sums, o_part, D, 1, m_mask, D, BLOCK_D)
                b_counts += tl.load(p_part_counts + o_part, mask=m_mask, other=0)
            b_means = b_sums / tl.maximum(b_counts, 1).to(tl.float32)[:, None]
            b_moved = tl.where((b_counts > 0)[:, None], b_means, b_moved)
            tl.store(p_counts + head * s_counts_head + o_m, b_counts, mask=m_mask)
        _store_rows(p_moved, b_moved, o_m, D, 1, m_mask, D, BLOCK_D)
        if LAST:
            b_norms += _norms(b_moved)
    if LAST:
        mean = tl.sum(b_norms, 0) / num_landmarks
        tl.debug_barrier()  # other threads may have written what is read now
        for first in range(0, num_landmarks, BLOCK_M):
            o_m = first + tl.arange(0, BLOCK_M)
            m_mask = o_m < num_landmarks
            b_moved = _load_rows(p_moved, o_m, D, 1, m_mask, D, BLOCK_D)  # [M, D]
            b_lengths = tl.maximum(_norms(b_moved), LEAST_NORM)
            _store_rows(
                p_out, b_moved / b_lengths[:, None] * mean, o_m, D, 1, m_mask, D, BLOCK_D
            )  # fmt: skip


def empty_clusters(query: Tensor, landmarks: Tensor, steps: int) -> list[Tensor]:
    """Memory for what :func:`cluster` gives.

    The landmarks, dense; before their norms were made equal, in float32; int32, which landmark each
    query joined [B H, steps, N] and how many joined each landmark [B H, steps, m].
    """
    all_heads = query.shape[0] * query.shape[1]
    return [
        landmarks.new_empty(landmarks.shape),
        landmarks.new_empty(landmarks.shape, dtype=torch.float32),
        query.new_empty(all_heads, steps, query.shape[2], dtype=torch.int32),
        query.new_empty(all_heads, steps, landmarks.shape[2], dtype=torch.int32),
    ]


def cluster(plan: Plan, query: Tensor, landmarks: Tensor, steps: int) -> None:
    """The launches forward; query [B, H, N, d] and landmarks [B, H, m, d], any strides.

    Results: those of :func:`empty_clusters`.
    """
    batch, heads, tokens, dim = query.shape
    num_landmarks, all_heads = landmarks.shape[2], batch * heads
    out, moved, nearest, counts = map(plan.result, empty_clusters(query, landmarks, steps))
    blocks = choose_cluster_blocks(
        all_heads, tokens, dim, num_landmarks, query.element_size(), plan.gpu
    )
    padded = max(16, next_power_of_2(dim))
    part_sums = part_counts = counts  # any tensor for what is left out
    if steps:
        parts = all_heads, blocks.splits, num_landmarks
        part_sums = plan.scratch(*parts, dim, dtype=torch.float32)
        part_counts = plan.scratch(*parts, dtype=torch.int32)
    for step in range(steps):
        wide = is_wide(query) or is_wide(landmarks)
        plan.launch(
            _join_kernel, (cdiv(tokens, blocks.queries), all_heads),
            query, landmarks, nearest[:, step],
            *query.stride(), *landmarks.stride(), nearest.stride(0), heads, tokens, num_landmarks,
            D=dim, BLOCK_D=padded, WIDE=wide, BLOCK_N=blocks.queries, BLOCK_M=blocks.landmarks,
            PRECISION=precision(query.dtype), num_warps=4, num_stages=blocks.join_stages,
        )  # fmt: skip
        plan.launch(
            _sum_joined_kernel,
            (blocks.splits, cdiv(num_landmarks, blocks.landmarks), all_heads),
            query, nearest[:, step], part_sums, part_counts,
            *query.stride(), nearest.stride(0),
            heads, tokens, num_landmarks, blocks.splits, blocks.tokens_per_split,
            D=dim, BLOCK_D=padded, WIDE=wide, BLOCK_N=blocks.sum_joined.block,
            BLOCK_M=blocks.landmarks, PRECISION=precision(query.dtype),
            STAGES=blocks.sum_joined.stages, **blocks.sum_joined.triton_options,
        )  # fmt: skip
        if step < steps - 1:
            target = plan.scratch(*landmarks.shape, dtype=torch.float32)
            _move(plan, part_sums, part_counts, landmarks, counts[:, step], target, target, False)
            landmarks = target
    last = counts[:, -1] if steps else counts
    _move(plan, part_sums, part_counts, landmarks, last, moved, out, True)


def _move(
    plan: Plan, part_sums: Tensor, part_counts: Tensor, landmarks: Tensor, counts: Tensor,
    moved: Tensor, out: Tensor, is_last: bool,
) -> None:  # fmt: skip
    """part_sums [B H, splits, m, d]; counts [B H, m], or empty where no query joined any."""
    batch, heads, num_landmarks, dim = landmarks.shape
    plan.launch(
        _move_kernel, (batch * heads,),
        part_sums, part_counts, landmarks, counts, moved, out,
        *landmarks.stride(), counts.stride(0), heads, num_landmarks, part_sums.shape[1],
        D=dim, BLOCK_D=max(16, next_power_of_2(dim)), WIDE=is_wide(landmarks), BLOCK_M=MOVED_ROWS,
        JOINED=counts.numel() > 0, LAST=is_last, num_warps=8,
    )  # fmt: skip


@triton.jit
def _move_backward_kernel(
    p_grad, p_moved, p_counts, p_weights, p_grad_moved, p_grad_landmarks,
    s_grad_b, s_grad_h, s_grad_m, s_grad_d, heads, num_landmarks, steps,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Gradient of the moved landmarks x, of which y = mean |x| x / |x| is left. Grid (B H).

    Writes it [B H, m, D] in float32; its weight [B H, steps, m] in the gradient of a query that
    joined the landmark in a step; and the gradient of the landmarks at the beginning, which is that
    of the ones that stayed in every step.
    """
    head = tl.program_id(0).to(tl.int64)
    p_grad += head // heads * s_grad_b + head % heads * s_grad_h
    p_moved += head * num_landmarks * D
    p_grad_moved += head * num_landmarks * D
    p_grad_landmarks += head * num_landmarks * D
    p_counts += head * steps * num_landmarks
    p_weights += head * steps * num_landmarks
    b_norms = tl.zeros([BLOCK_M], dtype=tl.float32)
    b_inner = tl.zeros([BLOCK_M], dtype=tl.float32)
    for first in range(0, num_landmarks, BLOCK_M):
        o_m = first + tl.arange(0, BLOCK_M)
        m_mask = o_m < num_landmarks
        b_moved = _load_rows(p_moved, o_m, D, 1, m_mask, D, BLOCK_D)  # [M, D]
        b_grad = _load_rows(p_grad, o_m, s_grad_m, s_grad_d, m_mask, D, BLOCK_D, WIDE)
        b_row_norms = _norms(b_moved)
        b_norms += b_row_norms
        b_products = tl.sum(b_grad.to(tl.float32) * b_moved, 1)
        b_inner += b_products / tl.maximum(b_row_norms, LEAST_NORM)
    mean = tl.sum(b_norms, 0) / num_landmarks
    grad_norm = tl.sum(b_inner, 0) / num_landmarks

    for first in range(0, num_landmarks, BLOCK_M):
        o_m = first + tl.arange(0, BLOCK_M)
        m_mask = o_m < num_landmarks
        b_moved = _load_rows(p_moved, o_m, D, 1, m_mask, D, BLOCK_D)  # [M, D]
        b_grad = _load_rows(p_grad, o_m, s_grad_m, s_grad_d, m_mask, D, BLOCK_D, WIDE)
        b_grad = b_grad.to(tl.float32)
        b_row_norms = _norms(b_moved)
        b_lengths = tl.maximum(b_row_norms, LEAST_NORM)
        # The norm of a row of zeros has a gradient of zero, as PyTorch's has.
        b_directions = b_moved / tl.where(b_row_norms > 0, b_row_norms, 1.0)[:, None]
        b_along = tl.sum(b_grad * b_moved, 1) / b_lengths
        b_along = tl.where(b_row_norms >= LEAST_NORM, b_along, 0.0)
        b_across = b_grad - b_along[:, None] * b_directions
        b_grad_moved = mean * b_across / b_lengths[:, None] + grad_norm * b_directions
        _store_rows(p_grad_moved, b_grad_moved, o_m, D, 1, m_mask, D, BLOCK_D)
        # Back through the steps, as long as the landmark had no queries.
        b_left = tl.full([BLOCK_M], 1.0, dtype=tl.float32)
        for i in range(steps):
            o_step = (steps - 1 - i) * num_landmarks + o_m
            b_counts = tl.load(p_counts + o_step, mask=m_mask, other=0)
            b_weights = b_left / tl.maximum(b_counts, 1).to(tl.float32)
            tl.store(p_weights + o_step, b_weights, mask=m_mask)
            b_left = tl.where(b_counts > 0, 0.0, b_left)
        b_grad_landmarks = tl.where((b_left > 0)[:, None], b_grad_moved, 0.0)
        _store_rows(p_grad_landmarks, b_grad_landmarks, o_m, D, 1, m_mask, D, BLOCK_D)


@triton.jit
def _joined_backward_kernel(
    p_grad_moved, p_weights, p_nearest, p_grad_query,
    s_grad_query_b, s_grad_query_h, s_grad_query_n, s_grad_query_d,
    heads, num_tokens, num_landmarks, steps,
    D: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Gradients of the landmarks that a query joined, weighted. Grid (blocks of queries, B H).

    Reads 4 bytes per query and step, and m rows per head; writes dq.
    """
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    p_grad_query += head // heads * s_grad_query_b + head % heads * s_grad_query_h
    p_grad_moved += head * num_landmarks * D
    p_weights += head * steps * num_landmarks
    p_nearest += head * steps * num_tokens
    o_n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = o_n < num_tokens
    b_grad = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    for _ in range(steps):
        b_nearest = tl.load(p_nearest + o_n, mask=n_mask, other=0)
        b_weights = tl.load(p_weights + b_nearest, mask=n_mask, other=0.0)
        # Most weights of all steps but the last are zero.
        b_rows = _load_rows(p_grad_moved, b_nearest, D, 1, b_weights > 0, D, BLOCK_D)
        b_grad += b_weights[:, None] * b_rows
        p_nearest += num_tokens
        p_weights += num_landmarks
    _store_rows(
        p_grad_query, b_grad, o_n, s_grad_query_n, s_grad_query_d, n_mask, D, BLOCK_D, WIDE
    )  # fmt: skip


def empty_cluster_gradients(grad: Tensor, query: Tensor, steps: int) -> list[Tensor]:
    """Memory for what :func:`cluster_backward` gives.

    Gradients of the landmarks at the beginning, and, unless there were no steps, of the queries.
    """
    gradients = [grad.new_empty(grad.shape)]
    if steps:
        gradients.append(empty_like_query(query))
    return gradients


def cluster_backward(
    plan: Plan, grad: Tensor, query: Tensor, moved: Tensor, nearest: Tensor, counts: Tensor,
    options: None,
) -> None:  # fmt: skip
    """The launches backward; what :func:`cluster` gave, and the gradient of the landmarks.

    Results: those of :func:`empty_cluster_gradients`.
    """
    batch, heads, tokens, dim = query.shape
    num_landmarks, steps = moved.shape[2], counts.shape[1]
    padded = max(16, next_power_of_2(dim))
    grad_landmarks, *grad_queries = map(plan.result, empty_cluster_gradients(grad, query, steps))
    grad_moved = plan.scratch(*moved.shape, dtype=torch.float32)
    weights = counts  # any tensor for what is left out
    if steps:
        weights = plan.scratch(*counts.shape, dtype=torch.float32)
    plan.launch(
        _move_backward_kernel, (batch * heads,),
        grad, moved, counts, weights, grad_moved, grad_landmarks,
        *grad.stride(), heads, num_landmarks, steps,
        D=dim, BLOCK_D=padded, WIDE=is_wide(grad), BLOCK_M=MOVED_ROWS, num_warps=8,
    )  # fmt: skip
    if not steps:
        return
    (grad_query,) = grad_queries
    plan.launch(
        _joined_backward_kernel, (cdiv(tokens, JOINED_ROWS), batch * heads),
        grad_moved, weights, nearest, grad_query,
        *grad_query.stride(), heads, tokens, num_landmarks, steps,
        D=dim, BLOCK_D=padded, WIDE=is_wide(grad_query), BLOCK_N=JOINED_ROWS, num_warps=4,
    )  # fmt: skip
