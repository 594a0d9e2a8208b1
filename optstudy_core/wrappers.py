"""The table of wrappers: what goes around an algorithm and gives another one, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from .algorithm import Algorithm
from .averaged import averaged
from .cautious import cautious
from .lookahead import lookahead
from .mechanic import mechanic
from .sam import sam

WRAPPERS: Mapping[str, Callable[[Algorithm], Algorithm]] = MappingProxyType(
    {f.__name__: f for f in (averaged, cautious, lookahead, mechanic, sam)}
)
"""Every wrapper by name; each has a module of that name."""
