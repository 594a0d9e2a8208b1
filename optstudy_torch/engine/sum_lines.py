"""The operations of passes of exact sums on the elements of a block, as lines.

A pass runs on symbols instead of blocks. The recorded operations become the body of a loop or of a
kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from optstudy_core.arrays.exact_sum import Terms, product


def products_of(terms: Terms) -> Callable[..., Iterator[Any]]:
    """Return a function that yields each term, a product of its factors."""
    return lambda *block: map(product, terms(*block))


class Lines:
    """The operations on the elements of a block.

    Attributes:
        lines: operations and the names of their arguments; the results are t0, t1, …
        numbers: numbers that are read, called c0, c1, …: one, or one for each leaf.
    """

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []
        self.numbers: list[Any] = []

    def results(self, sources: Callable[..., Iterator[Any]], vectors: int) -> tuple[str, ...]:
        """Return the names of the terms for a block, x0, x1, …, of each vector."""
        return tuple(x.name for x in sources(*(Term(self, f"x{i}") for i in range(vectors))))

    def name(self, x: Any) -> str:
        """Return the name of a term or a number."""
        if isinstance(x, Term):
            return x.name
        self.numbers.append(x)
        return f"c{len(self.numbers) - 1}"

    def add(self, operation: str, x: Any, y: Any) -> Term:
        """Append a line; return its result."""
        self.lines.append((operation, self.name(x), self.name(y)))
        return Term(self, f"t{len(self.lines) - 1}")


class Term:
    """A symbol for a float64 array of a block."""

    __slots__ = ("_lines", "name")
    __array_ufunc__ = None  # a NumPy scalar on the left then uses our operation

    def __init__(self, lines: Lines, name: str) -> None:
        self._lines, self.name = lines, name

    def __add__(self, other: Any) -> Term:
        return self._lines.add("add", self, other)

    def __radd__(self, other: Any) -> Term:
        return self._lines.add("add", other, self)

    def __sub__(self, other: Any) -> Term:
        return self._lines.add("subtract", self, other)

    def __rsub__(self, other: Any) -> Term:
        return self._lines.add("subtract", other, self)

    def __mul__(self, other: Any) -> Term:
        return self._lines.add("multiply", self, other)

    def __rmul__(self, other: Any) -> Term:
        return self._lines.add("multiply", other, self)
