"""Tables of what was made for a key, which do not grow without end and may be shared by threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A table that lets go of what was used longest ago.

    Args:
        most: entries that it keeps.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[Key, Value] = {}  # what was used last is at the end
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def __iter__(self) -> Iterator[Key]:
        with self._lock:
            return iter([*self._kept])

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._kept.clear()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return what was made for a key; made now, in one thread only, if there is none."""
        with self._lock:
            value = self._kept.pop(key) if key in self._kept else make()
            self._kept[key] = value
            if len(self._kept) > self._most:
                del self._kept[next(iter(self._kept))]
            return value
