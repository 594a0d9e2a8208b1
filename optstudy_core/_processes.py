"""Which of several processes this one is: the adapters know, the records ask."""

from __future__ import annotations

from collections.abc import Callable

_ASKED: list[Callable[[], int]] = []


def ask(rank: Callable[[], int]) -> None:
    """Ask this function for the number of the process, from 0 on, from now on too."""
    _ASKED.append(rank)


def is_first() -> bool:
    """Tell whether this process is the one that writes."""
    return all(rank() == 0 for rank in _ASKED)
