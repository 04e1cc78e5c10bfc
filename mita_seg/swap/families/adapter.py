"""How one kind of attention module is swapped and restored."""

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import nn

from mita_seg.layers import Attention
from mita_seg.swap.mixer import Mixer


class Adapter:
    """Finds, swaps and restores the attention modules of a family.

    A swapped module stays the same object with the same parameters, hooks and place in the model.
    It uses its own projections, and between them it calls ``self.mita``, a :class:`Mixer`.
    """

    told_grid = False  # whether the caller passes the grid, so that it need not be found

    def owns(self, module: nn.Module) -> bool:
        """Whether a module, swapped or not, is of this kind."""
        raise NotImplementedError(f'{type(self).__name__} must implement owns()')

    def refusal(self, module: nn.Module, name: str, ancestors: Sequence[nn.Module]) -> str | None:
        """Why a module can't be swapped; None if it can.

        Args:
            module: An attention module of the family.
            name: Its name in its parent.
            ancestors: The modules around it, from the model down to its parent.
        """
        return None

    def heads(self, module: Any) -> tuple[int, int]:
        """Number of heads and channels of a head."""
        return module.num_heads, module.head_dim

    def divert(self, module: nn.Module) -> Any:
        """Make a module call ``self.mita``; returns what :meth:`undivert` needs."""
        raise NotImplementedError(f'{type(self).__name__} must implement divert()')

    def undivert(self, module: nn.Module, undo: Any) -> None:
        """Undo :meth:`divert`."""
        raise NotImplementedError(f'{type(self).__name__} must implement undivert()')

    def guard(self, ancestors: Sequence[nn.Module]) -> None:
        """Hook the modules around a swapped one, to refuse arguments that do not reach it."""

    def swap(self, module: nn.Module, attention: Attention, grid: Any) -> None:
        """Let a module mix by `attention`; it may be swapped already."""
        self.restore(module)
        module.mita = Mixer(attention, grid, undo=self.divert(module))

    def restore(self, module: nn.Module) -> None:
        """Undo :meth:`swap`; nothing happens to a module that is not swapped."""
        mixer = getattr(module, 'mita', None)
        if isinstance(mixer, Mixer):
            self.undivert(module, mixer.undo)
            del module.mita


class ClassAdapter(Adapter):
    """Swaps modules by giving them another class.

    That class is importable, so that copies and pickles work.

    Args:
        original: Class of the modules; instances of its subclasses may compute something else and
            are left alone.
        swapped: The class that they get, derived from `original`.
    """

    def __init__(self, original: type[nn.Module], swapped: type[nn.Module]) -> None:
        self.original = original
        self.swapped = swapped

    def owns(self, module: nn.Module) -> bool:
        return type(module) in (self.original, self.swapped)

    def divert(self, module: nn.Module) -> type[nn.Module]:
        original = type(module)
        module.__class__ = self.swapped
        return original

    def undivert(self, module: nn.Module, undo: type[nn.Module]) -> None:
        module.__class__ = undo


def refuse(what: str, instead: str) -> NoReturn:
    """Refuse a call that swapped attention can't serve.

    Args:
        what: Which one; goes on after "swapped attention".
        instead: What the caller can do.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f'swapped attention {what}: {instead}, or undo the swap by restore_attention')
