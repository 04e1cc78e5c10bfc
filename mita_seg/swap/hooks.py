"""Forward hooks that restoring a model finds and removes."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from torch import nn

H = TypeVar('H', bound='Hook')


class Hook:
    """A hook that knows its handle; a subclass is called as the hook.

    It is an object rather than a closure so that models carrying it can be copied and pickled. A
    subclass may be an attribute of the module instead, and its own handle.
    """

    handle: Any = None

    def attach(self: H, module: nn.Module) -> H:
        """Register with a module; returns the hook like this one that it has already, if any."""
        existing = next((hook for hook in hooks_of(module) if self.is_like(hook)), None)
        if existing is not None:
            return cast(H, existing)
        self.handle = self._register(module)
        return self

    def is_like(self, other: 'Hook') -> bool:
        """Whether one of the two is enough for a module."""
        return type(other) is type(self)

    def _register(self, module: nn.Module) -> Any:
        return module.register_forward_hook(cast(Callable, self))


def hooks_of(module: nn.Module) -> Iterator[Hook]:
    """Our hooks on a module, its submodules left out."""
    places = (module._forward_hooks, module._forward_pre_hooks, vars(module))
    for value in [value for place in places for value in place.values()]:
        if isinstance(value, Hook):
            yield value


def remove_hooks(model: nn.Module) -> None:
    """Remove our hooks from a model and its submodules."""
    for module in model.modules():
        for hook in hooks_of(module):
            hook.handle.remove()
