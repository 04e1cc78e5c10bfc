"""The forward pass: pooling, probing, assignment of keys and queries to experts, attention."""

from torch import Tensor

from .attend import attend
from .blocks import choose_blocks
from .launch import empty_like_query, is_wide
from .plan import Plan
from .pool import pool
from .score_and_route import score_and_route
from .select_and_sort import select_and_sort
from .state import empty_state, lay_out, view_state


def mita_forward(
    plan: Plan, query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor | None,
    height: int, width: int, rows: int, columns: int, start: int,
    topk: int, num_routed: int, scale: float, landmark_scale: float, shared: bool,
) -> None:  # fmt: skip
    """The operator's forward pass, arguments as those of `op.triton_attention`."""
    pooled = landmarks is None
    num_landmarks = rows * columns if pooled else landmarks.shape[2]
    num_routed = num_routed if topk else 1
    out = plan.result(empty_like_query(query))
    layout = lay_out(query, num_landmarks, pooled, topk, num_routed, shared)
    state = view_state(plan.result(empty_state(query, layout)), layout)
    if pooled:
        landmarks = state.landmarks
        pool(plan, query, landmarks, (height, width), (rows, columns), start)
    tensors = query, key, value, landmarks
    wide = any(is_wide(tensor) for tensor in (*tensors, out))
    blocks = choose_blocks(
        query.shape[0] * query.shape[1], query.shape[2], query.shape[3],
        num_landmarks, topk, num_routed, query.element_size(), plan.gpu,
    )  # fmt: skip
    scored = score_and_route(plan, *tensors, topk, num_routed, scale, shared, blocks, wide)
    select_and_sort(plan, scored, state, topk, num_routed, shared, blocks)
    attend(
        plan, *tensors, state, out, topk, num_routed, scale, landmark_scale, shared, blocks, wide
    )
