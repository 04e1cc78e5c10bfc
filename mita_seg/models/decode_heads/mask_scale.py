"""A scale and an offset for the masks of few classes."""

import math

import torch
from torch import Tensor, nn


class MaskScale(nn.Module):
    """Learned scale and offset of each class, in the place of a LayerNorm over the classes.

    A LayerNorm over two scores leaves nothing but which of them is larger, and next to no gradient;
    over one it leaves a constant. At the start the scale is about what a LayerNorm multiplies with,
    one over the spread of the cosine of two random vectors.

    Args:
        num_classes: Scores of a patch.
        embed_dims: Channels of the vectors whose cosines the scores are.
    """

    def __init__(self, num_classes: int, embed_dims: int) -> None:
        super().__init__()
        self.start = math.sqrt(embed_dims)
        self.scale = nn.Parameter(torch.empty(num_classes))
        self.bias = nn.Parameter(torch.empty(num_classes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set scale and offset to what they are before training."""
        nn.init.constant_(self.scale, self.start)
        nn.init.zeros_(self.bias)

    def forward(self, scores: Tensor) -> Tensor:
        """Scale scores [..., num_classes]."""
        return scores * self.scale + self.bias
