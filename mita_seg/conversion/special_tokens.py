"""Class token, registers and distillation token, and their entries in the position embedding.

Ours is [1, 1 + h * w, C]: an entry for the class token, then the patches; registers have none. A
token of the file that has an entry is the same as the sum of the two without one.
"""

from collections.abc import Sequence

import torch

from .conversion import Conversion
from .position_embedding import square_side

# timm's registers; DeiT's distillation token, which stands where a register would.
_REGISTERS = ('reg_token', 'dist_token')


def settle_special_tokens(conversion: Conversion, grid: Sequence[int] | None = None) -> None:
    """Bring the special tokens of a timm-like file into our form, in place.

    Args:
        conversion: The weights, under our names but for the special tokens.
        grid: The patch grid (h, w), if it is known; otherwise it is a square.

    Raises:
        ValueError: The position embedding fits neither the patches alone nor them with the special
            tokens.
    """
    for name in _REGISTERS:
        if name in conversion.weights:
            conversion.rename(name, 'register_tokens')
            if name == 'dist_token':
                conversion.notes.append('The distillation token becomes a register.')
    weights = conversion.weights
    position = weights.get('pos_embed')
    if position is None or position.ndim != 3:
        return
    has_class = 'cls_token' in weights
    registers = weights.get('register_tokens')
    num_registers = 0 if registers is None else registers.shape[1]

    entries = _count_entries(position.shape[1], has_class, num_registers, grid)
    if entries is None:
        patches = f'{grid[0]}x{grid[1]} patches' if grid else 'a square grid of patches'
        raise ValueError(
            f'pos_embed of shape {list(position.shape)} is not for {patches}, alone '
            f'or with {int(has_class)} class token and {num_registers} registers'
        )
    special, patches = position.split([entries, position.shape[1] - entries], dim=1)
    if entries > int(has_class):  # the registers have entries
        own = special[:, -num_registers:]
        conversion.absorb('register_tokens', 'pos_embed', registers + own)
    class_entry = special[:, :1] if has_class and entries else torch.zeros_like(patches[:, :1])
    weights['pos_embed'] = torch.cat((class_entry, patches), dim=1)


def _count_entries(
    count: int, has_class: bool, num_registers: int, grid: Sequence[int] | None
) -> int | None:
    """How many of the entries belong to special tokens: all of those, the class token, or none."""
    possible = (int(has_class) + num_registers, int(has_class), 0)
    if grid is not None:
        entries = count - grid[0] * grid[1]
        return entries if entries in possible else None
    if has_class and not num_registers and not square_side(count):
        return 1  # of a grid that need not be square
    for entries in possible:
        if square_side(count - entries):
            return entries
    return None
