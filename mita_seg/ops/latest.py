"""A bounded memory of what calls found out, for the next calls that are like them."""

from collections.abc import Hashable
from threading import Lock
from typing import TypeVar

V = TypeVar('V')

_MOST = 1024  # images may have ever new sizes


class Latest(dict[Hashable, V]):
    """The latest entries by key, of which threads may keep some side by side."""

    def __init__(self) -> None:
        super().__init__()
        self._changing = Lock()  # two threads may drop the oldest one

    def keep(self, key: Hashable, value: V) -> None:
        """Keep `value` as the latest one."""
        with self._changing:
            self.pop(key, None)
            while len(self) >= _MOST:
                del self[next(iter(self))]  # the oldest
            self[key] = value
