"""The number of this process among several: the adapters know it, and the records need it."""

from __future__ import annotations

from collections.abc import Callable

_ASKED: list[Callable[[], int]] = []


def ask(rank: Callable[[], int]) -> None:
    """Register a function that returns the number of this process, starting at 0."""
    _ASKED.append(rank)


def is_first() -> bool:
    """Return whether this process writes: only the first of several does."""
    return all(rank() == 0 for rank in _ASKED)
