"""The settings of a call, checked once and passed to every backend.

A new option is added here: its field and its check. The registered operators take plain numbers;
which ones follows from the fields.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, get_type_hints

from .surroundings import is_exporting
from .validation import check_experts, check_scale

MAX_OFFSET = 10_000  # float16 holds it; the exponential of its negative is 0


class Pooling(NamedTuple):
    """Where landmarks are pooled from, and how many they are.

    Attributes:
        height, width: Size of the patch map.
        landmark_height, landmark_width: Size of the landmark grid, row-major.
        start: Index of the first patch among the tokens.
    """

    height: int
    width: int
    landmark_height: int
    landmark_width: int
    start: int

    @property
    def num_landmarks(self) -> int:
        """m."""
        return self.landmark_height * self.landmark_width


def make_pooling(grid: Sequence[int], num_landmarks: Sequence[int], start: int) -> Pooling:
    """Pooling of a patch grid (h, w) to a landmark grid (mh, mw)."""
    (height, width), (landmark_height, landmark_width) = grid, num_landmarks
    return Pooling(height, width, landmark_height, landmark_width, start)


class MiTAOptions(NamedTuple):
    """What MiTA attention computes, beside its tensors.

    Attributes:
        topk: Keys per expert, k, at most N; 0: no routed experts.
        num_routed: Experts per query, s; 1 without routed experts.
        scale: c, factor of the logits with keys.
        landmark_scale: c_L, factor of the logits with landmarks.
        shared: Whether queries attend to the shared expert.
        shared_offset: Added to the logits with landmarks; 0 where they are the only ones or none.
        remainder: Whether each expert has a key for all that are outside of it; there are some.
        pooling: For a backend that pools the landmarks itself; None where they are given.
    """

    topk: int
    num_routed: int
    scale: float
    landmark_scale: float
    shared: bool
    shared_offset: float = 0.0
    remainder: bool = False
    pooling: Pooling | None = None

    @property
    def summarizes(self) -> bool:
        """Whether sums over many keys are attended to: a shared expert, or a remainder."""
        return self.shared or self.remainder


def make_options(
    shape: Sequence[int],
    num_landmarks: int,
    *,
    topk: int,
    num_routed: int = 1,
    scale: float | None = None,
    landmark_scale: float | None = None,
    shared: bool = True,
    shared_offset: float = 0.0,
    remainder: bool = False,
) -> MiTAOptions:
    """Options with their defaults filled in.

    Args:
        shape: Tokens and head dimension, (N, d).
        num_landmarks: m.
        topk, num_routed, scale, landmark_scale, shared, shared_offset, remainder: As in
            :func:`mita_seg.ops.mita_attention`.

    Raises:
        TypeError: A number of the wrong type.
        ValueError: A number out of range, neither a shared nor a routed expert, or a remainder
            beside a shared or a second routed expert.
    """
    num_tokens, dim = shape
    check_experts(topk, num_routed, num_landmarks, shared, remainder)
    # A size is a tensor in a trace, whose powers are of float32.
    scale = float(dim) ** -0.5 if scale is None else check_scale('scale', scale)
    if landmark_scale is None:
        landmark_scale = scale
    else:
        landmark_scale = check_scale('landmark_scale', landmark_scale)
    shared_offset = check_scale('shared_offset', shared_offset)
    if not -MAX_OFFSET <= shared_offset <= MAX_OFFSET:
        raise ValueError(
            f'shared_offset must be from {-MAX_OFFSET} to {MAX_OFFSET}, got {shared_offset}'
        )
    # While a model is exported the number of tokens may be open.
    if not is_exporting():
        if topk >= num_tokens:
            remainder = False  # no key is left out
        topk = min(topk, num_tokens)
    # These make no difference then.
    num_routed = num_routed if topk else 1
    shared_offset = shared_offset if topk and shared else 0.0
    return MiTAOptions(topk, num_routed, scale, landmark_scale, shared, shared_offset, remainder)


_SCHEMA_TYPES: dict[Any, str] = {
    int: 'SymInt', float: 'float', bool: 'bool', Pooling | None: 'SymInt[]?'
}  # fmt: skip
# The options in the schema of a registered operator, all by keyword.
SCHEMA = ', '.join(
    f'{_SCHEMA_TYPES[kind]} {name}' for name, kind in get_type_hints(MiTAOptions).items()
)


def to_scalars(options: MiTAOptions) -> dict[str, Any]:
    """What an operator with the options of `SCHEMA` takes, by name."""
    scalars: dict[str, Any] = dict(zip(MiTAOptions._fields, options, strict=True))
    if options.pooling is not None:
        scalars['pooling'] = list(options.pooling)
    return scalars


def from_scalars(*, pooling: Sequence[int] | None = None, **scalars: Any) -> MiTAOptions:
    """The inverse of :func:`to_scalars`."""
    return MiTAOptions(**scalars, pooling=None if pooling is None else Pooling(*pooling))
