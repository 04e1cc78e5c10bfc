"""The backward pass: shared expert, routed experts, queries, keys and values, landmarks."""

import torch
from torch import Tensor

from ..options import MiTAOptions
from .blocks import choose_blocks
from .call_plan import Plan
from .launch import empty_like_query, is_wide
from .pool_landmarks import pool_backward
from .query_backward import grad_query_alone
from .routed_backward import grad_routed, reduce_and_place
from .shared_backward import (
    empty_summary_gradients,
    grad_from_queries,
    grad_from_values,
    reduce_landmarks,
)
from .state import State, lay_out, view_state


def mita_backward(
    plan: Plan,
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor | None,
    out: Tensor,
    state: Tensor,
    options: MiTAOptions,
) -> None:
    """The backward pass. Its results: gradients of query, key, value and, if given, landmarks.

    Landmarks that were given and are used for routing alone get none.
    """
    views = view_state(state, lay_out(query, landmarks, options))
    given = views.landmarks if landmarks is None else landmarks
    grads = [plan.result(empty_like_query(tensor)) for tensor in (query, key, value)]
    grad_query, grad_key, grad_value = grads
    wide = any(is_wide(tensor) for tensor in (grad, query, key, value, given, out, *grads))
    grad_landmarks = query  # any tensor if nothing is summarized
    if options.summarizes and landmarks is None:  # averages over the landmarks' windows
        grad_landmarks = plan.scratch(*given.shape, dtype=torch.float32)
    elif options.summarizes:
        grad_landmarks = plan.result(given.new_empty(given.shape))
    _backward(
        plan, grad, query, key, value, given, out, views, grad_query, grad_key, grad_value,
        grad_landmarks, options, wide,
    )  # fmt: skip
    if options.pooling is not None and options.summarizes:
        pool_backward(plan, grad_landmarks, grad_query, options.pooling, averaged=True)


def _backward(
    plan: Plan, grad: Tensor, query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor,
    out: Tensor, state: State, grad_query: Tensor, grad_key: Tensor, grad_value: Tensor,
    grad_landmarks: Tensor, options: MiTAOptions, wide: bool,
) -> None:  # fmt: skip
    """All but what the pooling adds to the gradient of the queries."""
    batch, heads, tokens, dim = query.shape
    num_landmarks, all_heads, summarizes = landmarks.shape[2], batch * heads, options.summarizes
    blocks = choose_blocks(
        all_heads, tokens, dim, num_landmarks, options.topk, options.num_routed,
        query.element_size(),
        plan.gpu,
    )  # fmt: skip
    partial = options.num_routed > 1
    # A program that has all landmarks, or all keys of an expert, also computes dq.
    one_landmark_block = blocks.one_landmark_block or not summarizes
    one_pass = not partial and one_landmark_block and blocks.one_key_block

    delta = plan.scratch(*state.lse.shape, dtype=torch.float32)
    summary = empty_summary_gradients(plan, query, state, options, blocks.backward_splits)
    grad_from_queries(
        plan, grad, query, landmarks, out, state, delta, summary, grad_query,
        options, one_pass, blocks, wide,
    )  # fmt: skip
    entries = reduce_and_place(plan, landmarks, state, summary, tokens, options, blocks)
    if not one_pass:
        grad_query_alone(
            plan, grad_query, query, key, value, landmarks, grad, delta, state, options, blocks,
            wide,
        )  # fmt: skip
    if summarizes:
        grad_from_values(
            plan, key, value, landmarks, state, summary, grad_key, grad_value, options, blocks,
            wide,
        )  # fmt: skip
    if options.topk:
        grad_routed(
            plan, grad_query, grad_key, grad_value, query, key, value, grad, delta, state, entries,
            options, one_pass, blocks, wide,
        )  # fmt: skip
    if summarizes:
        reduce_landmarks(plan, state, summary, grad_landmarks, options, blocks)
