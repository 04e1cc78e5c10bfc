"""The settings of a call, made once by its validation and passed to every backend."""

from typing import NamedTuple


class Window(NamedTuple):
    """Where landmarks are pooled from: the map [height, width] from token `start` on.

    They are rows x columns of them, row-major.
    """

    height: int
    width: int
    rows: int
    columns: int
    start: int


class MiTAOptions(NamedTuple):
    """What MiTA attention computes, beside its tensors.

    Attributes:
        topk: Keys an expert, k, of at most N; 0: no routed experts.
        num_routed: Experts a query, s.
        scale: c, factor of the logits with keys.
        landmark_scale: c_L, factor of the logits with landmarks.
        shared: Whether queries attend to the shared expert.
        window: Of a backend that pools the landmarks itself; None where they are given.
    """

    topk: int
    num_routed: int
    scale: float
    landmark_scale: float
    shared: bool
    window: Window | None = None
