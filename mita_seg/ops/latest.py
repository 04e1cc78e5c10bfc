"""A bounded memory of what calls found out, for the next calls that are like them."""

from collections.abc import Hashable
from threading import Lock
from typing import TypeVar

V = TypeVar('V')

_MOST = 1024  # images may have ever new sizes


class Latest(dict[Hashable, V]):
    """The latest entries by key, of which threads may keep some side by side. No key is None."""

    def __init__(self) -> None:
        super().__init__()
        self._changing = Lock()  # two threads may drop the oldest one

    def keep(self, key: Hashable | None, value: V) -> V:
        """`value`, kept as the latest one unless there is no key."""
        if key is not None:
            with self._changing:
                self.pop(key, None)
                while len(self) >= _MOST:
                    del self[next(iter(self))]  # the oldest
                self[key] = value
        return value
