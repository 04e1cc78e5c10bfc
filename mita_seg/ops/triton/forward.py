"""The forward pass: pooling, scores and routing, top-k and sorting, remainder, attention."""

from torch import Tensor

from ..options import MiTAOptions
from .attend import attend
from .blocks import choose_blocks
from .call_plan import Plan
from .launch import empty_like_query, is_wide
from .pool_landmarks import pool
from .remainder import make_remainder
from .score_and_route import score_and_route
from .state import count_landmarks, empty_state, lay_out, view_state
from .topk_and_sort import topk_and_sort


def mita_forward(
    plan: Plan,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor | None,
    options: MiTAOptions,
) -> None:
    """The forward pass; arguments as of :func:`.op.attention`. Its results: output and state."""
    num_landmarks = count_landmarks(landmarks, options)
    out = plan.result(empty_like_query(query))
    layout = lay_out(query, landmarks, options)
    state = view_state(plan.result(empty_state(query, layout)), layout)
    if landmarks is None:
        assert options.pooling is not None
        landmarks = state.landmarks
        pool(plan, query, landmarks, options.pooling)
    tensors = query, key, value, landmarks
    wide = any(is_wide(tensor) for tensor in (*tensors, out))
    blocks = choose_blocks(
        query.shape[0] * query.shape[1], query.shape[2], query.shape[3], num_landmarks,
        options.topk, options.num_routed, query.element_size(), plan.gpu,
    )  # fmt: skip
    scored = score_and_route(plan, *tensors, state, options, blocks, wide)
    topk_and_sort(plan, scored, state, options, blocks)
    if options.remainder:
        make_remainder(plan, *tensors[1:], scored.scores, state, options, blocks, wide)
    attend(plan, *tensors, state, out, options, blocks, wide)
