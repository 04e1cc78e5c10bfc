"""What stands for keys that a query does not see one by one: shared expert or remainder."""

from functools import cached_property

from torch import Tensor

from mita_seg.ops.reference import (
    gather_rows,
    landmark_weights,
    outside_weights,
    remainder_logits,
    shared_logits,
)

from .record import Routing


class Summary:
    """The shared expert or the remainder of one call, as logits and as weights of the keys.

    Args:
        routing: The call. It may have neither.
    """

    def __init__(self, routing: Routing):
        self._routing = routing
        self._options = routing.options

    def logits(self, queries: slice | Tensor) -> list[Tensor]:
        """Of some queries with what stands for the keys, [B, H, n, m or 1]; none without any."""
        routing, options = self._routing, self._options
        query = routing.query[:, :, queries].float()
        key, landmarks = routing.key.float(), routing.landmarks.float()
        if options.shared:
            return [shared_logits(query, landmarks, options)]
        if options.remainder:
            routes = routing.routes[:, :, queries]
            return [remainder_logits(query, key, landmarks, routing.experts, routes, options)]
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
        routing, options = self._routing, self._options
        key, landmarks = routing.key.float(), routing.landmarks.float()
        if options.shared:
            return landmark_weights(key, landmarks, options)
        return outside_weights(key, landmarks, routing.experts, options)
