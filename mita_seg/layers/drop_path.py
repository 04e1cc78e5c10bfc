"""Stochastic depth."""

from torch import Tensor, nn


class DropPath(nn.Module):
    """In training, zero a residual branch per sample and scale the kept ones to the same mean.

    Source: Huang et al., arXiv 1603.09382.

    Args:
        drop_prob: Probability of dropping a sample's branch, from 0 to 1.

    Raises:
        ValueError: `drop_prob` is not from 0 to 1.
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        if not 0 <= drop_prob <= 1:
            raise ValueError(f'drop_prob must be from 0 to 1, got {drop_prob!r}')
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """A residual branch [B, ...], of the same shape afterwards."""
        if not self.training or self.drop_prob == 0:
            return x
        keep_prob = 1 - self.drop_prob
        keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep_prob)
        if keep_prob > 0:
            keep = keep / keep_prob
        return x * keep

    def extra_repr(self) -> str:
        """The probability."""
        return f'drop_prob={self.drop_prob:.4g}'
