"""The backend of NumPy, which defines the bits of all backends."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from .halves import added_in_halves, part
from .leaves import Backend, Leaves, Reduction, Scalars, Step, Trees
from .passes import HOST, Columns
from .quiet import Quiet, quietly


class NumPy(Backend):
    """The operators of NumPy, which define the bits of all backends."""

    name = "numpy"

    def apply(self, operation: str, *args: Any) -> Any:
        # Scalars of NumPy, the results for 0-d arrays, keep their dtype without an array type.
        # Overflow and invalid operations give values, without warnings.
        return quietly(getattr(np, operation), *args)

    def meet(self, operation: str, *args: Any) -> Any:
        # Most trees have one leaf. Without the general case an operation takes two thirds of the
        # time.
        own, trees = [], 0
        for a in args:
            if type(a) is Leaves and len(a.values) == 1 and a.values[0] is not None:
                own.append(a.values[0])
                trees += 1
            elif type(a) is float or type(a) is int:
                own.append(a)
            else:
                return super().meet(operation, *args)
        if not trees:
            return super().meet(operation, *args)
        return Leaves((self.apply(operation, *own),), self)

    def full(self, value: Any, leaf: Any) -> Any:
        with Quiet():
            return np.full((), value, dtype=leaf.dtype)

    def fulls(self, values: Sequence[Any], tree: Leaves) -> Leaves:
        dtypes = {x.dtype for x in tree.values}
        if len(dtypes) != 1 or len(values) == 1:
            return super().fulls(values, tree)
        with Quiet():
            return Scalars(np.array(values).astype(*dtypes), len(values), self)

    def scalar_of(self, function: Reduction, vectors: Sequence[Sequence[Any]]) -> Any:
        with Quiet():
            return function(HOST, *vectors, exact=True)

    def scalars_of(self, function: Reduction, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        def kind(row: tuple[Any, ...]) -> Any:  # of similar lengths
            return (max(row[0].size.bit_length(), 6) // 3, *(x.dtype for x in row))

        def together(rows: Sequence[tuple[Any, ...]]) -> Any:
            library = Columns([row[0].size for row in rows])
            vectors = [[library.side_by_side(x)] for x in zip(*rows, strict=True)]
            with Quiet():
                return function(library, *vectors, exact=True)

        alone = functools.partial(self.scalars_of_large, function)
        return _small_ones_together(rows, kind, together, alone, Columns.most)

    def scalars_of_large(
        self, function: Reduction, rows: Sequence[tuple[Any, ...]]
    ) -> Sequence[Any]:
        """Return the result of :meth:`scalars_of`, leaf by leaf."""
        return super().scalars_of(function, rows)

    def in_double(
        self, function: Callable[..., Leaves], *trees: Leaves, axis: int | None = None
    ) -> Leaves:
        if axis is None:
            return super().in_double(function, *trees)
        along_next = functools.partial(function, axis=axis + (axis >= 0))

        def together(rows: Sequence[tuple[Any, ...]]) -> Any:
            return self.doubled(along_next, *map(np.stack, zip(*rows, strict=True)))

        def in_parts(rows: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
            most = max(1, _TOGETHER // rows[0][0].size)
            parts = [rows[i : i + most] for i in range(0, len(rows), most)]
            return chain.from_iterable(self.each(together, parts))

        def alone(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
            return [self.doubled_along(axis, function, *row) for row in rows]

        def kind(row: tuple[Any, ...]) -> Any:
            return tuple((x.shape, x.dtype) for x in row)

        rows = list(zip(*(tree.values for tree in trees), strict=True))
        return Leaves(_small_ones_together(rows, kind, in_parts, alone, _TOGETHER // 2), self)

    def repeat(
        self, function: Step, go_on: Callable[..., Leaves], trees: Trees, most: int
    ) -> Trees:
        with Quiet():
            return super().repeat(function, go_on, trees, most)

    def each(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Return the results of a function for independent items."""
        return [function(item) for item in items]

    def doubled_along(self, axis: int, function: Callable[..., Leaves], *leaves: Any) -> Any:
        """Return the result of :meth:`doubled`; a leaf may be divided along other axes."""
        return self.doubled(functools.partial(function, axis=axis), *leaves)

    def doubled(self, function: Callable[..., Leaves], *leaves: Any) -> Any:
        with Quiet():
            wide = (Leaves([x.astype(np.float64)], self) for x in leaves)
            return function(*wide).values[0].astype(leaves[0].dtype)

    def sum_along(self, x: Leaves, axis: int) -> Leaves:
        # Without a tree around every part: the leaves are often small.
        with Quiet():
            return Leaves([added_in_halves(v, axis, part) for v in x.values], self)

    def matmul(self, x: Any, y: Any) -> Any:
        with Quiet():
            return x @ y

    def stacked(self, scalars: Sequence[Any]) -> Any:
        return np.stack(scalars) if len({x.dtype for x in scalars}) == 1 else None


_TOGETHER = 1 << 19
"""The largest number of elements of leaves that are computed together, to fit the cache."""


def _small_ones_together(
    rows: Sequence[tuple[Any, ...]],
    kind: Callable[[tuple[Any, ...]], Any],
    together: Callable[..., Iterable[Any]],
    alone: Callable[..., Iterable[Any]],
    most: int,
) -> list[Any]:
    """Compute small leaves of one kind in one call; a call costs more than hundreds of elements.

    Args:
        rows: for each leaf, its array in each of the trees.
        kind: a function that returns the kind of a row.
        together: a function that computes rows of one kind.
        alone: a function that computes any rows.
        most: the number of elements of the largest small leaf.
    """
    alike: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        if 0 < row[0].size <= most:
            alike.setdefault(kind(row), []).append(i)
    groups = [numbers for numbers in alike.values() if len(numbers) > 1]
    others = sorted({*range(len(rows))}.difference(*groups))
    values = dict(zip(others, alone([rows[i] for i in others]), strict=True))
    for numbers in groups:
        values |= zip(numbers, together([rows[i] for i in numbers]), strict=True)
    return [values[i] for i in range(len(rows))]
