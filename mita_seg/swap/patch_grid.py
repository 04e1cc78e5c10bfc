"""The patch grid of the tokens that an attention gets.

The number of tokens does not tell it: images of different shapes may have the same number. The last
grid that was seen may be wrong, too: a model may be called in several threads, and parts of a call
may run again in the backward pass. So the grid is looked up by the trace, the thread and the
autograd graph of the call.
"""

import torch
from torch import Tensor
from torch.autograd.graph import Node

from .graph_marks import mark, marks_behind, running_node
from .patch_map import Grid, PatchMap, is_traced, trace_number


class PatchGrid:
    """The grid of a swapped module's tokens, of which all but a fixed number are patches.

    Args:
        patch_map: Knows the sizes of the patch map.
        before: Special tokens before the patches; None for as many as the first call turns out to
            have.
        after: Special tokens after them.
    """

    def __init__(self, patch_map: PatchMap, before: int | None, after: int = 0) -> None:
        self.patch_map = patch_map
        self.before = before
        self.after = after

    def locate(self, num_tokens: int, tokens: Tensor | None = None) -> tuple[Grid, int]:
        """Grid (h, w) and index of the first patch.

        Args:
            num_tokens: Number of tokens N.
            tokens: Any tensor made of them, whose autograd graph may tell their grid.

        Raises:
            ValueError: No images have passed yet, none whose patches make N tokens, or several and
                nothing tells which of them are meant.
        """
        if is_traced(num_tokens) and (located := self._locate_traced(num_tokens)):
            return located
        return self._locate_now(int(num_tokens), tokens)

    def _locate_traced(self, num_tokens: int) -> tuple[Grid, int] | None:
        """As :meth:`locate`, from sizes that may be built into a graph; None if there are none."""
        passage = self.patch_map.passage
        if passage.trace == trace_number():
            grid = passage.grid
            if grid is None:
                return None
            before = self._count_before(num_tokens, grid)
            fits = before + grid[0] * grid[1] + self.after == num_tokens
            return (grid, before) if fits else None
        # Images passed outside of the trace, and others may have when its graph runs.
        if passage.trace is not None or (self.before is None and passage.grid is None):
            return None
        num_tokens = int(num_tokens)
        before = self._count_before(num_tokens, passage.grid)
        known = self.patch_map.known.get(num_tokens - before - self.after, ())
        if before < 0 or len(known) != 1:
            return None
        self.before = before
        return known[0], before

    @torch.compiler.disable
    def _locate_now(self, num_tokens: int, tokens: Tensor | None) -> tuple[Grid, int]:
        node = running_node()
        last = self.patch_map.last(node)
        if last is None and (self.before is None or not self.patch_map.known):
            raise ValueError(
                f'the patch grid is not known: {self.patch_map.source} has not run since the swap. '
                f'Call the whole model, or give swap_attention a grid'
            )
        before = self._count_before(num_tokens, last)
        grids = self._find(num_tokens - before - self.after, last, tokens, node)
        if before < 0 or len(grids) != 1:
            self.patch_map.start_call()  # this one is over
            raise ValueError(self._complaint(num_tokens, grids, last))
        (grid,) = grids
        self.before = before
        self.patch_map.learn(grid)
        if tokens is not None:
            mark(tokens, self.patch_map, grid)
        return grid, before

    def _count_before(self, num_tokens: int, grid: Grid | None) -> int:
        """Special tokens before the patches, which are those of a grid if there was no call yet."""
        if self.before is not None:
            return self.before
        assert grid is not None
        return num_tokens - self.after - grid[0] * grid[1]

    def _find(
        self, patches: int, last: Grid | None, tokens: Tensor | None, node: Node | None
    ) -> set[Grid]:
        """The grids that the call leaves possible for a number of patches."""
        passage = self.patch_map.passage
        missed = set()  # of images that passed in this call without this attention being called
        if node is None:
            asked, passage.asked[self] = passage.asked.get(self, 0), passage.count
            missed = {grid for grid, count in passage.sizes.items() if count > asked}
        possible = {
            *self.patch_map.known.get(patches, ()),
            *({last} if last is not None and last[0] * last[1] == patches else ()),
        }
        if len(possible) < 2:
            return possible

        found = set()
        if tokens is not None:
            found = possible & marks_behind(tokens.grad_fn, self.patch_map)
        if node is None and not (found and passage.in_graph):
            found |= possible & {last, *missed}
        elif node is not None and not found:
            found = possible & marks_behind(node, self.patch_map)
            # Maps of the second run itself may add to what the graph tells, or contradict it.
            found = found & {last} or found | (possible & {last})
        return found or possible

    def _complaint(self, num_tokens: int, grids: set[Grid], last: Grid | None) -> str:
        source = self.patch_map.source
        if len(grids) > 1:
            sizes = ' or '.join(f'{height} x {width}' for height, width in sorted(grids))
            return (
                f'the attention got {num_tokens} tokens, which may be of {sizes} patches: {source} '
                f'made both, and nothing tells which these are. Call the model for one shape of '
                f'images at a time; if this is gradient checkpointing, let {source} require '
                f'gradients, or leave out checkpointing'
            )
        height, width = last or next(reversed(self.patch_map.known.values()))[-1]
        special = '' if self.before is None else f' and {self.before + self.after} special tokens'
        return (
            f'the attention got {num_tokens} tokens, but {source} made {height} x {width} '
            f'patches{special}: patches cannot be dropped or merged'
        )
