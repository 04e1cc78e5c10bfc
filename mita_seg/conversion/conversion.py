"""Weights on their way from one layout to another."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Conversion:
    """Weights, and what became of every name in the file.

    Attributes:
        source: Layout of the file, one of ``SOURCES``.
        weights: Weights by their present names.
        origins: Present name -> the names in the file that it was made of.
        left_aside: Names of other entries of the file, which are not converted.
        unused: Name in the file -> why it is left out.
        foreign: Present names that MiTAVisionTransformer with our attentions does not have.
        missing: Our name -> what its absence means, for those that a model usually has.
        settings: Arguments of MiTAVisionTransformer that the weights call for.
        notes: What else the user should know, one sentence each.
    """

    source: str
    weights: dict[str, Tensor]
    origins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left_aside: list[str] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.origins = {name: (name,) for name in self.weights}

    def replace(self, names: Iterable[str], new: Mapping[str, Tensor]) -> None:
        """Put weights in the place of those that they are made of.

        Args:
            names: Present names, which go.
            new: Weights by new name.

        Raises:
            ValueError: A new name is taken by another weight.
        """
        names = list(names)
        for name in names:
            del self.weights[name]
        origins = tuple(dict.fromkeys(o for name in names for o in self.origins.pop(name)))
        for name, value in new.items():
            if name in self.weights:
                taken = ', '.join(self.origins[name])
                raise ValueError(f'{", ".join(origins)} and {taken} both become {name}')
            self.weights[name] = value
            self.origins[name] = origins

    def rename(self, name: str, new_name: str) -> None:
        """Give a weight another name."""
        if new_name != name:
            self.replace([name], {new_name: self.weights[name]})

    def absorb(self, name: str, other: str, value: Tensor) -> None:
        """Give a weight a new value, which another weight went into; the other stays."""
        self.weights[name] = value
        self.origins[name] = tuple(dict.fromkeys(self.origins[name] + self.origins[other]))

    def discard(self, name: str) -> tuple[str, ...]:
        """Take out a weight that others have absorbed; returns the names it was made of."""
        del self.weights[name]
        return self.origins.pop(name)

    def leave_out(self, name: str, why: str) -> None:
        """Take out a weight that nothing uses."""
        self.unused.update(dict.fromkeys(self.discard(name), why))
