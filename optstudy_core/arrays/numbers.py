"""Ranges of numbers, and messages for values that are not allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Real
from typing import Any, Final, NamedTuple

import numpy as np


class Range(NamedTuple):
    """The interval of a hyperparameter, without ``above`` and ``below`` themselves.

    Numbers are finite. With ``infinite`` the interval includes infinity, which switches a bound
    off.
    """

    at_least: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf
    above: float = -math.inf
    infinite: bool = False

    def holds(self, value: float) -> bool:
        """Return whether ``value`` is in the interval."""
        if value == math.inf:
            return self.infinite
        return (
            math.isfinite(value)
            and self.at_least <= value <= self.at_most
            and self.above < value < self.below
        )

    def __str__(self) -> str:
        if self.above > -math.inf:
            ends = {self.below: " and below", self.at_most: " up to"}
            end = "".join(f"{word} {x:g}" for x, word in ends.items() if x < math.inf)
            between = f"numbers above {self.above:g}{end}"
            return f"{between}, and inf" if self.infinite else between
        if self.at_least == -math.inf:
            return "finite numbers"
        if self.below < math.inf:
            return f"numbers from {self.at_least:g} to below {self.below:g}"
        if self.at_most < math.inf:
            return f"numbers from {self.at_least:g} to {self.at_most:g}"
        return f"finite numbers >= {self.at_least:g}"


NON_NEGATIVE: Final = Range(at_least=0.0)
DECAY_RATE: Final = Range(at_least=0.0, below=1.0)
ANY: Final = Range()


def is_number(value: Any) -> bool:
    """Return whether ``value`` is a real number of Python or NumPy (no boolean, no array)."""
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def nearest(value: str, allowed: Iterable[str]) -> str:
    """Return the end of an error message: the names closest to ``value``, and all names."""
    names = sorted(allowed)
    close = [name for name in names if name.casefold() == value.casefold()]
    close = close or get_close_matches(value, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{hint}Allowed are {', '.join(map(repr, names))}"
