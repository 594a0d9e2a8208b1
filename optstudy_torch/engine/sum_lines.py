"""What passes of exact sums do with the elements of a block, as lines.

A pass is given symbols instead of blocks, and what it did is written as the body of a loop or of a
kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from optstudy_core.arrays.exact_sum import Terms, product


def products_of(terms: Terms) -> Callable[..., Iterator[Any]]:
    """Return what makes each term, a product of its factors."""
    return lambda *block: map(product, terms(*block))


class Lines:
    """What is done to the elements of a block.

    Attributes:
        lines: operations and the names of their arguments; the results are t0, t1, …
        numbers: that are read, called c0, c1, …: one, or one for each leaf.
    """

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []
        self.numbers: list[Any] = []

    def results(self, sources: Callable[..., Iterator[Any]], vectors: int) -> tuple[str, ...]:
        """Return what the terms are called that are made of a block, x0, x1, …, of each vector."""
        return tuple(x.name for x in sources(*(Term(self, f"x{i}") for i in range(vectors))))

    def name(self, x: Any) -> str:
        """Return what a term or a number is called."""
        if isinstance(x, Term):
            return x.name
        self.numbers.append(x)
        return f"c{len(self.numbers) - 1}"

    def add(self, operation: str, x: Any, y: Any) -> Term:
        """Write a line."""
        self.lines.append((operation, self.name(x), self.name(y)))
        return Term(self, f"t{len(self.lines) - 1}")


class Term:
    """A float64 array of a block, as a symbol."""

    __slots__ = ("_lines", "name")
    __array_ufunc__ = None  # so that a NumPy scalar on the left leaves the operation to us

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
