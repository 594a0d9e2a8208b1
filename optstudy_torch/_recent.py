"""Tables of limited size that threads can share, with values made on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A table that drops the least recently used entries.

    Args:
        most: the largest number of entries.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[Key, Value] = {}  # the last used is at the end
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def __iter__(self) -> Iterator[Key]:
        with self._lock:
            return iter([*self._kept])

    def clear(self) -> None:
        """Remove all entries."""
        with self._lock:
            self._kept.clear()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the value of a key; a missing value is made, in one thread only."""
        with self._lock:
            value = self._kept.pop(key) if key in self._kept else make()
            self._kept[key] = value
            if len(self._kept) > self._most:
                del self._kept[next(iter(self._kept))]
            return value
