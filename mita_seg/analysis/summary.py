"""What stands for keys that a query does not see one by one: shared expert or remainder."""

from functools import cached_property

from torch import Tensor

from mita_seg.ops.reference import (
    gather_rows,
    landmark_weights,
    outside_weights,
    remainder_logits,
    remainder_of,
    shared_logits,
)
from mita_seg.ops.remainder import Remainder

from .record import Routing, in_float


class Summary:
    """The shared expert or the remainder of one call, as logits and as weights of the keys.

    Args:
        routing: The call. It may have neither.
    """

    def __init__(self, routing: Routing):
        self._routing = routing
        self._options = routing.options
        self._query, self._key, self._landmarks = in_float(routing)

    def logits(self, queries: slice | Tensor) -> list[Tensor]:
        """Of some queries with what stands for the keys, [B, H, n, m or 1]; none without any."""
        query, options = self._query[:, :, queries], self._options
        if options.shared:
            return [shared_logits(query, self._landmarks, options)]
        if options.remainder:
            routes = self._routing.routes[:, :, queries]
            return [remainder_logits(query, self._remainder, routes, options)]
        return []

    def on_keys(self, weights: Tensor, queries: slice | Tensor) -> Tensor:
        """Weights of these logits, spread over the keys that they stand for, [B, H, n, N]."""
        if self._options.shared:
            return weights @ self._spread
        own = gather_rows(self._spread, self._routing.routes[:, :, queries]).squeeze(-2)
        return weights * own

    @cached_property
    def _spread(self) -> Tensor:
        """How each landmark spreads its weight over the keys, [B, H, m, N]."""
        key, landmarks, options = self._key, self._landmarks, self._options
        if options.shared:
            return landmark_weights(key, landmarks, options)
        return outside_weights(key, landmarks, self._routing.experts, options)

    @cached_property
    def _remainder(self) -> Remainder:
        """The remainder of each expert, without values."""
        no_values = self._key[..., :1]
        experts = self._routing.experts
        return remainder_of(self._key, no_values, self._landmarks, experts, self._options)
