"""A learned position embedding: which patch grid it is for, and resizing it to another.

Its shape tells the number of patches, but not the grid. State dicts of our backbone have the grid
in their metadata, as ``_metadata[prefix]['pos_embed_grid'] = (h, w)``. That is no weight: strict
loaders of any implementation ignore it. Files of safetensors have it in their metadata as text.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from math import isqrt

import torch
from torch import Tensor
from torch.nn.functional import interpolate

GRID_KEY = 'pos_embed_grid'


def resize_position_embedding(
    embedding: Tensor, grid: Sequence[int], new_grid: Sequence[int], mode: str = 'bicubic'
) -> Tensor:
    """Interpolate the patches' entries; that of the class token stays.

    Args:
        embedding: [1, 1 + h * w, C], the class token's entry first.
        grid: Its patch grid (h, w).
        new_grid: The patch grid (h', w') wanted.
        mode: Interpolation mode of ``torch.nn.functional.interpolate``.

    Returns:
        [1, 1 + h' * w', C].
    """
    class_token, patches = embedding[:, :1], embedding[:, 1:]
    patch_map = patches.transpose(1, 2).reshape(1, -1, *grid)  # [1, C, h, w]
    patch_map = interpolate(patch_map, size=tuple(new_grid), mode=mode, align_corners=False)
    return torch.cat((class_token, patch_map.flatten(2).transpose(1, 2)), dim=1)


def find_grid(
    embedding: Tensor,
    new_grid: Sequence[int],
    said: Sequence[int] | None = None,
    pretrained: Sequence[int] | None = None,
) -> tuple[tuple[int, int], bool]:
    """Settle the patch grid of a checkpoint's position embedding.

    It is the first of these that is known: the grid of the checkpoint, the user's, the model's own
    if it has the same number of patches, a square.

    Args:
        embedding: The checkpoint's, [1, 1 + patches, C].
        new_grid: The model's patch grid (h, w).
        said: The grid in the checkpoint; ignored if its number of patches differs.
        pretrained: The grid that the user gives.

    Returns:
        The grid (h, w), and whether it is a guess that may be wrong: the model's own, if it is not
        a square.

    Raises:
        ValueError: The number of patches differs from that of `pretrained`; or no grid is known and
            the number is not a square.
    """
    count = embedding.shape[1] - 1
    for grid in (said, pretrained):
        if grid is not None and grid[0] * grid[1] == count:
            return (grid[0], grid[1]), False
    height, width = new_grid
    if height * width == count:
        return (height, width), pretrained is None and height != width
    if pretrained is not None:
        raise ValueError(
            f'pos_embed has {count} patches, but pretrained_size makes a grid of '
            f'{pretrained[0]}x{pretrained[1]}'
        )
    side = square_side(count)
    if not side:
        raise ValueError(
            f'pos_embed of shape {list(embedding.shape)} is not for a square grid of patches and '
            f'one class token, so it cannot be resized to {height}x{width} patches without '
            'pretrained_size, the image size that it was trained with'
        )
    return (side, side), False


def guess_message(grid: Sequence[int]) -> str:
    """What to tell the user about a grid that is a guess."""
    height, width = grid
    return (
        f'The position embedding of {height * width} patches does not say its grid and is taken '
        f'for {height}x{width}, that of the model; if it was another, set pretrained_size, the '
        'image size that it was trained with'
    )


def said_grid(weights: Mapping[str, Tensor], prefix: str = '') -> tuple[int, int] | None:
    """The patch grid that the metadata of weights say; None if they say none.

    Args:
        weights: A state dict.
        prefix: What the names of the backbone begin with in it, with the dot.
    """
    metadata = getattr(weights, '_metadata', {})
    return grid_of_metadata(metadata.get(prefix.removesuffix('.'), {}))


def grid_of_metadata(metadata: Mapping) -> tuple[int, int] | None:
    """The patch grid in one module's metadata; None if there is none."""
    grid = metadata.get(GRID_KEY)
    # The file may be anybody's.
    if isinstance(grid, tuple | list) and [type(size) for size in grid] == [int, int]:
        return grid[0], grid[1]
    return None


def say_grid(
    weights: Mapping[str, Tensor], grid: Sequence[int], prefix: str = ''
) -> OrderedDict[str, Tensor]:
    """Give weights the patch grid of their position embedding.

    Args:
        weights: A state dict; not changed.
        grid: (h, w).
        prefix: What the names of the backbone begin with in it, with the dot.

    Returns:
        A new dict, which says it in its metadata.
    """
    metadata = OrderedDict(getattr(weights, '_metadata', {}))
    name = prefix.removesuffix('.')
    metadata[name] = {**metadata.get(name, {}), GRID_KEY: (grid[0], grid[1])}
    told = OrderedDict(weights)
    vars(told)['_metadata'] = metadata
    return told


def grids_to_text(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """The patch grids that weights name, for metadata of a file that can have text only.

    Args:
        weights: A state dict.

    Returns:
        ``{'pos_embed_grid': '{"backbone": [h, w]}'}``; empty if they say none.
    """
    metadata = getattr(weights, '_metadata', {})
    grids = {name: grid_of_metadata(entry) for name, entry in metadata.items()}
    grids = {name: grid for name, grid in grids.items() if grid is not None}
    return {GRID_KEY: json.dumps(grids)} if grids else {}


def grids_from_text(
    weights: Mapping[str, Tensor], text: Mapping[str, str] | None
) -> Mapping[str, Tensor]:
    """Give weights the patch grids that :func:`grids_to_text` wrote.

    Args:
        weights: A state dict; not changed.
        text: The metadata of the file, which may be anybody's.

    Returns:
        The weights; a new dict, which says the grids in its metadata, if there are any.
    """
    try:
        grids = json.loads((text or {}).get(GRID_KEY, '{}'))
    except ValueError:
        return weights
    for name, grid in grids.items() if isinstance(grids, dict) else ():
        grid = grid_of_metadata({GRID_KEY: grid})
        if grid is not None:
            weights = say_grid(weights, grid, name and f'{name}.')
    return weights


def square_side(count: int) -> int | None:
    """Side of the square that so many patches make; None if they make none."""
    side = isqrt(max(count, 0))
    return side if side and side * side == count else None
