"""The patch grid of the images that a model is given, read off where it embeds them."""

from collections.abc import Sequence

from torch import nn

from .hooks import Hook


class PatchMap(Hook):
    """Records the sizes of the maps [B, C, h, w] that a module returns, as its forward hook.

    Sizes are kept by their number of patches, so that activations can be recomputed after images of
    another size have passed.

    Args:
        source: What messages call the module.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.last: tuple[int, int] | None = None
        self.seen: dict[int, tuple[int, int]] = {}

    def __call__(self, module: nn.Module, args: tuple, output) -> None:
        """Record the size of the output.

        Raises:
            ValueError: It is no map [B, C, h, w].
        """
        if getattr(output, 'ndim', None) != 4:
            got = f'shape {tuple(output.shape)}' if hasattr(output, 'shape') else type(output)
            raise ValueError(f'{self.source} must return a patch map [B, C, h, w], got {got}')
        self.record(output.shape)

    def record(self, shape: Sequence[int]) -> None:
        """Note the size of a map [B, C, h, w]."""
        height, width = (int(size) for size in shape[-2:])  # they are tensors while tracing
        self.last = self.seen[height * width] = (height, width)

    def __getstate__(self) -> dict:
        # A copy may be of one block alone, whose sizes nothing would update.
        return {**self.__dict__, 'last': None, 'seen': {}}


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

    def locate(self, num_tokens: int) -> tuple[tuple[int, int], int]:
        """Grid (h, w) and index of the first patch for N tokens.

        Raises:
            ValueError: No images have passed yet, or none whose patches make N tokens.
        """
        num_tokens = int(num_tokens)  # a tensor while tracing
        last, source = self.patch_map.last, self.patch_map.source
        if last is None:
            raise ValueError(
                f'the patch grid is not known: {source} has not run since the swap. Call the whole '
                f'model, or give swap_attention a grid'
            )
        before = self.before
        if before is None:
            before = num_tokens - self.after - last[0] * last[1]
        grid = self.patch_map.seen.get(num_tokens - before - self.after)
        if grid is None or before < 0:
            special = '' if self.before is None else f' and {before + self.after} special tokens'
            raise ValueError(
                f'the attention got {num_tokens} tokens, but {source} made {last[0]} x {last[1]} '
                f'patches{special}: patches can not be dropped or merged'
            )
        self.before = before
        return grid, before
