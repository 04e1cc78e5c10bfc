"""The feed-forward network of a transformer block."""

from collections.abc import Callable

from torch import Tensor, nn


class FeedForward(nn.Module):
    """Linear layers with an activation between them.

    Submodules are named as in MMCV's FFN (``layers.0.0``, ..., ``layers.{num_fcs - 1}``), so that
    its checkpoints and parameter-wise settings fit.

    Args:
        embed_dims: Channels C of the tokens.
        hidden_dims: Channels between the linear layers.
        num_fcs: Number of linear layers, at least 2.
        drop: Dropout probability after each linear layer.
        act_layer: Makes an activation module.

    Raises:
        ValueError: `num_fcs` is below 2.
    """

    def __init__(
        self,
        embed_dims: int,
        hidden_dims: int,
        *,
        num_fcs: int = 2,
        drop: float = 0.0,
        act_layer: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        if num_fcs < 2:
            raise ValueError(f'num_fcs must be at least 2, got {num_fcs!r}')
        widths = [embed_dims] + [hidden_dims] * (num_fcs - 1)
        hidden = [
            nn.Sequential(nn.Linear(width, hidden_dims), act_layer(), nn.Dropout(drop))
            for width in widths[:-1]
        ]
        self.layers = nn.Sequential(*hidden, nn.Linear(hidden_dims, embed_dims), nn.Dropout(drop))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [..., C] to tokens [..., C]."""
        return self.layers(x)
