"""Patch grids for models without a known patch embedding."""

import math
from collections.abc import Sequence

from torch import Tensor

from mita_seg.ops.validation import check_pair


class SquareGrid:
    """The tokens are the patches of a square image."""

    def locate(self, num_tokens: int, tokens: Tensor | None = None) -> tuple[tuple[int, int], int]:
        """Grid (h, w) and index of the first patch for N tokens.

        Raises:
            ValueError: N is not a square.
        """
        side = math.isqrt(num_tokens)
        if side * side != num_tokens:
            raise ValueError(
                f'grid must be given to swap_attention: no patch embedding was found and '
                f'{num_tokens} tokens are not a square. Give (h, w), (h, w, leading special '
                f'tokens) or the name of a module that returns the patch map [B, C, h, w]'
            )
        return (side, side), 0


class GivenGrid:
    """A fixed grid.

    Args:
        grid: (h, w), or (h, w, number of special tokens before the patches).

    Raises:
        TypeError: Not two or three ints.
        ValueError: A size below 1, or no number of special tokens.
    """

    def __init__(self, grid: Sequence[int]) -> None:
        if not isinstance(grid, Sequence) or len(grid) not in (2, 3):
            raise TypeError(f'grid must be (h, w) or (h, w, special tokens), got {grid!r}')
        check_pair('grid', grid[:2])
        self.grid = grid[0], grid[1]
        self.start = grid[2] if len(grid) == 3 else 0
        if not isinstance(self.start, int) or self.start < 0:
            raise ValueError(f'grid must end in a number of special tokens, got {grid!r}')

    def locate(self, num_tokens: int, tokens: Tensor | None = None) -> tuple[tuple[int, int], int]:
        """Grid (h, w) and index of the first patch.

        Raises:
            ValueError: There are not as many tokens as the grid and its special tokens make.
        """
        height, width = self.grid
        if num_tokens != self.start + height * width:
            raise ValueError(
                f'grid={self.grid} with {self.start} leading special tokens makes '
                f'{self.start + height * width} tokens, but the attention got {num_tokens}'
            )
        return self.grid, self.start
