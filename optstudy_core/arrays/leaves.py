"""Several arrays that compute like one array, passed by the adapters to the core.

A :class:`Leaves` has the leaves of a tree of parameters. Its operators and the functions of its
namespace work leaf by leaf. Each calls the :class:`Backend` once per leaf, and the backend rounds
the result once (IEEE 754, to nearest even). So all libraries run the same formulas, and only the
backend of a library knows how the library rounds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np

from .doubles import Doubles, of_number
from .halves import added_in_halves, part
from .operators import Operators
from .quiet import quietly

OPERATIONS: Final = (
    "add",
    "subtract",
    "multiply",
    "divide",
    "negative",
    "abs",
    "sign",
    "sqrt",
    "maximum",
    "minimum",
    "where",
    "isfinite",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "equal",
    "not_equal",
    "logical_and",
    "logical_or",
    "logical_not",
    "zeros_like",
    "ones_like",
)
"""The operations of formulas, with the names of the array API standard."""


Reduction = Callable[..., Any]
"""A function of a :class:`~optstudy_core.exact_sum.Library` and vectors: a float64 scalar."""


Trees = tuple["Leaves", ...]
Step = Callable[..., Trees]


class Backend:
    """The operations of a library on one leaf, rounded once.

    Subclasses define :meth:`apply`, :meth:`full` and :meth:`scalar_of`. The backend of NumPy is the
    definition of the result.
    """

    name: str
    operations: tuple[str, ...] = OPERATIONS

    def apply(self, operation: str, *args: Any) -> Any:
        """Return ``operation`` (a name in :data:`OPERATIONS`) of leaves and Python numbers."""
        raise NotImplementedError

    def full(self, value: Any, leaf: Any) -> Any:
        """Return a 0-d array with ``value`` (a number or a float64 scalar), rounded once.

        The array has the dtype and the device of ``leaf``.
        """
        raise NotImplementedError

    def scalar_of(self, function: Reduction, vectors: Sequence[Sequence[Any]]) -> Any:
        """Return the float64 scalar ``function(library, *vectors, exact=True)``."""
        raise NotImplementedError

    def reduce(self, function: Reduction, trees: Sequence[Leaves], whole: bool) -> Leaves:
        """Return a scalar for each leaf, from this leaf of the trees or from the whole trees.

        Args:
            function: a function of :mod:`optstudy_core.reductions`; its vectors have no empty
                leaves.
            trees: trees of one structure.
            whole: whether all leaves are one vector.
        """
        rows = list(zip(*(tree.values for tree in trees), strict=True))
        if whole:
            full = [row for row in rows if math.prod(row[0].shape)]
            value = self.scalar_of(function, [[row[k] for row in full] for k in range(len(trees))])
            values = [value] * len(rows)
        else:
            values = self.scalars_of(function, rows)
        return self.fulls(values, trees[0])

    def fulls(self, values: Sequence[Any], tree: Leaves) -> Leaves:
        """Return the results of :meth:`full` for a value for each leaf of a tree."""
        pairs = zip(values, tree.values, strict=True)
        return Leaves((self.full(value, leaf) for value, leaf in pairs), self)

    def scalars_of(self, function: Reduction, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the float64 scalar of each leaf.

        Args:
            function: as in :meth:`reduce`.
            rows: for each leaf, its array in each of the trees.
        """
        return [
            self.scalar_of(function, [[x] if math.prod(x.shape) else [] for x in row])
            for row in rows
        ]

    def rearrange(self, function: Callable[..., Any], *trees: Leaves) -> Leaves:
        """Apply to each leaf a function that moves, selects or repeats elements, without rounding.

        Args:
            function: a function of arrays of the library.
            trees: the arguments of the function.
        """
        rows = zip(*(tree.values for tree in trees), strict=True)
        return Leaves((self.rearranged(function, *row) for row in rows), self)

    def rearranged(self, function: Callable[..., Any], *leaves: Any) -> Any:
        """Return the result of such a function for leaves."""
        return function(*leaves)

    def in_double(
        self, function: Callable[..., Leaves], *trees: Leaves, axis: int | None = None
    ) -> Leaves:
        """Compute a function of each leaf in float64, and round the result to its dtype.

        Args:
            function: a function of trees of one leaf, and of ``axis`` if given.
            trees: the arguments of the function.
            axis: the axis along which the function computes, if all other axes are independent:
                leaves may then be divided along other axes, or stacked along a new axis.
        """
        if axis is not None:
            function = functools.partial(function, axis=axis)
        rows = zip(*(tree.values for tree in trees), strict=True)
        return Leaves((self.doubled(function, *row) for row in rows), self)

    def doubled(self, function: Callable[..., Leaves], *leaves: Any) -> Any:
        """Return the result of such a function for leaves of one dtype."""
        raise NotImplementedError

    def sum_along(self, x: Leaves, axis: int) -> Leaves:
        """Return :func:`optstudy_core.axes.axis_sum` in float64."""

        def part_of(tree: Leaves, **bounds: int) -> Leaves:
            return self.rearrange(functools.partial(part, **bounds), tree)

        summed: Leaves = added_in_halves(x, axis, part_of)
        return summed

    def matmul(self, x: Any, y: Any) -> Any:
        """Return the product of the library for float64 matrices with exact sums."""
        return x @ y

    def rough_matmul(self, x: Any, y: Any) -> Any:
        """Return :meth:`matmul` of matrices that keep 20 bits of each row of x and column of y."""
        return self.matmul(x, y)

    def when(self, condition: Leaves, function: Step, trees: Trees, otherwise: Trees) -> Trees:
        """Return ``function(*trees)`` if ``condition``, one boolean, is true, else ``otherwise``.

        The function is called only if it is needed; this waits for a device.
        """
        (truth,) = condition.values
        return function(*trees) if bool(truth) else otherwise

    def repeat(
        self, function: Step, go_on: Callable[..., Leaves], trees: Trees, most: int
    ) -> Trees:
        """Return trees after repeating ``function`` while ``go_on`` returns true.

        Args:
            function: a function of trees that returns the same number of trees of the same shapes.
            go_on: a function of the trees that returns one boolean.
            trees: the initial trees, of one leaf each.
            most: the largest number of repetitions.
        """
        for _ in range(most):
            (truth,) = go_on(*trees).values
            if not bool(truth):
                break
            trees = function(*trees)
        return trees

    # Numbers in double precision: on the host, except in libraries that trace.

    def no_steps(self, tree: Leaves) -> Leaves:
        """Return a count of 0 steps for each leaf, int32."""
        return Scalars(np.zeros(tree.count, np.int32), tree.count, self)

    def counted(self, counts: Leaves) -> Doubles:
        """Return step counts as numbers; as one number if all leaves have the same count."""
        values = np.array([float(t) for t in counts.values])
        alike = len(values) and (values == values[0]).all()
        return Doubles(values[0] if alike else values, self)

    def counts(self, number: Any, like: Leaves) -> Leaves:
        """Return integers in double precision as step counts."""
        value = number.value if isinstance(number, Doubles) else number
        vector = np.broadcast_to(np.asarray(value).astype(np.int32), (like.count,))
        return Scalars(vector, like.count, self)

    def one_minus_power(self, a: Any, t: Leaves) -> Doubles:
        """Return the result of :func:`optstudy_core.doubles.one_minus_power`."""
        steps = self.counted(t).value
        part = a.value if isinstance(a, Doubles) else a
        pairs = np.broadcast_arrays(part, steps)
        made = [of_number(float(x), int(n)) for x, n in zip(*map(np.ravel, pairs), strict=True)]
        return Doubles(np.array(made).reshape(pairs[0].shape)[()], self)

    def of_numbers(self, operation: str, *args: Any) -> Any:
        """Return ``operation`` of :class:`Doubles` and Python numbers."""
        values = [a.value if isinstance(a, Doubles) else a for a in args]
        return Doubles(quietly(getattr(np, operation), *values)[()], self)

    def spread(self, number: Doubles, tree: Leaves) -> Any:
        """Return a number for each leaf, rounded once to its dtype; booleans stay booleans."""
        value = number.value
        if value.dtype == bool:
            return self.truths(np.broadcast_to(value, (tree.count,)), tree)
        return self.fulls(list(value), tree) if value.ndim else float(value)

    def truths(self, values: Any, tree: Leaves) -> Leaves:
        """Return a boolean for each leaf."""
        return Leaves(values, self)

    def meet(self, operation: str, *args: Any) -> Any:
        """Return ``operation`` of trees and numbers, which are rounded to the dtypes of a tree."""
        tree = None
        for a in args:
            if isinstance(a, Leaves):
                tree = a
        if tree is None:
            return self.of_numbers(operation, *args)
        return self.map(
            operation, *[self.spread(a, tree) if isinstance(a, Doubles) else a for a in args]
        )

    def stacked(self, scalars: Sequence[Any]) -> Any:
        """Return scalars of the leaves as one vector, or ``None`` if this saves nothing."""
        return None

    def unstacked(self, vector: Any) -> Sequence[Any]:
        """Return the elements of such a vector as leaves."""
        return [vector[i] for i in range(vector.shape[0])]

    def joined(self, trees: Sequence[Leaves], parts: Sequence[Sequence[int]]) -> Leaves:
        """Return one tree.

        Args:
            trees: the parts of the tree.
            parts: for each part, the numbers of its leaves in the whole tree.
        """
        return Leaves(in_order(trees, parts), self)

    def map(self, operation: str, *args: Any) -> Leaves:
        """Apply ``operation`` leaf by leaf; numbers and one-leaf operands go to every leaf.

        Scalars of the leaves are computed as one vector, in one call.
        """
        several = [a for a in args if isinstance(a, Leaves)]
        counts = [a.count for a in several]
        count = counts[0]
        if counts.count(count) != len(counts):
            raise ValueError(
                f"{operation} of trees with {counts} leaves; "
                "allowed are trees of the same structure"
            )
        if count > 1 and all(a.vector is not None for a in several):
            vector = self.apply(
                operation, *(a.vector if isinstance(a, Leaves) else a for a in args)
            )
            return Scalars(vector, count, self)
        return Leaves([self._of_leaf(operation, args, i) for i in range(count)], self)

    def _of_leaf(self, operation: str, args: Sequence[Any], i: int) -> Any:
        own = []
        for a in args:
            x = a.values[i] if isinstance(a, Leaves) else a
            if x is None:  # a field that the leaf does not need
                return None
            own.append(x)
        return self.apply(operation, *own)


def in_order(trees: Sequence[Leaves], parts: Sequence[Sequence[int]]) -> list[Any]:
    """Return the leaves of trees by their numbers."""
    leaves = chain.from_iterable(tree.values for tree in trees)
    found = dict(zip(chain.from_iterable(parts), leaves, strict=True))
    return [found[i] for i in range(len(found))]


class LeafDtypes:
    """The dtypes and devices of a tree, leaf by leaf: the ``dtype`` of a :class:`Leaves`."""

    __slots__ = ("tree",)

    def __init__(self, tree: Leaves) -> None:
        self.tree = tree


class LeavesNamespace:
    """The functions of the array API standard that formulas may use, for :class:`Leaves`."""

    __slots__ = ("_backend",)

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Callable[..., Leaves]:
        backend = self._backend
        if name not in backend.operations:
            raise AttributeError(
                f"a formula may not use xp.{name}: allowed is what every library rounds alike, "
                f"{', '.join(backend.operations)}"
            )
        return lambda *args: backend.meet(name, *args)

    def full(
        self, shape: tuple[()], value: Any, *, dtype: LeafDtypes, device: None = None
    ) -> Leaves:
        """Return ``value`` as a 0-d array for each leaf of the tree whose ``dtype`` is given."""
        if shape != ():
            raise ValueError(f"shape = {shape!r}: only () fits every leaf of a tree")
        return self._backend.fulls([value] * dtype.tree.count, dtype.tree)


UNKNOWN: Final = object()
"""Marks a vector of a tree that is not computed yet."""


class Leaves(Operators):
    """The leaves of a tree of arrays, with the operators of one array.

    Args:
        values: one array for each leaf, in the form of the backend.
        backend: the backend that computes the operations.

    Attributes:
        kept: data that the backend stores for the tree.

    >>> import numpy as np
    >>> from optstudy_core.arrays.numpy_backend import NumPy
    >>> tree = Leaves([np.float32([1.0, 4.0]), np.float64(9.0)], NumPy())
    >>> [np.asarray(v).tolist() for v in (2 * namespace_of(tree).sqrt(tree)).values]
    [[2.0, 4.0], 6.0]
    """

    __slots__ = ("_values", "_vector", "backend", "kept")
    backend: Backend

    def __init__(self, values: Any, backend: Backend) -> None:
        self._values: Sequence[Any] | None = tuple(values)
        self._vector: Any = UNKNOWN
        self.backend = backend
        self.kept: Any = None

    @property
    def values(self) -> Sequence[Any]:
        """The leaves."""
        assert self._values is not None
        return self._values

    @property
    def count(self) -> int:
        """The number of leaves."""
        return len(self.values)

    @property
    def vector(self) -> Any:
        """The leaves as one vector, if all are scalars of one kind; otherwise ``None``."""
        if self._vector is UNKNOWN:
            scalars = all(x is not None and x.shape == () for x in self.values)
            self._vector = self.backend.stacked(self.values) if scalars else None
        return self._vector

    def __array_namespace__(self, api_version: str | None = None) -> LeavesNamespace:
        return LeavesNamespace(self.backend)

    @property
    def dtype(self) -> LeafDtypes:
        """The dtypes of the leaves, for ``xp.full`` (a tree may mix dtypes)."""
        return LeafDtypes(self)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all leaves.

        Raises:
            ValueError: if leaves have different shapes.
        """
        (shape,) = {tuple(leaf.shape) for leaf in self.values}
        return shape

    @property
    def device(self) -> None:
        """``None``, because leaves may be on several devices; scalars are with their leaf."""
        return None

    def __repr__(self) -> str:
        return f"Leaves({list(self.values)!r}, {self.backend.name})"


class Scalars(Leaves):
    """A scalar for each leaf, stored as one vector until the leaves are read."""

    __slots__ = ("_count",)

    def __init__(self, vector: Any, count: int, backend: Backend) -> None:
        self._values, self._vector, self._count = None, vector, count
        self.backend, self.kept = backend, None

    @property
    def values(self) -> Sequence[Any]:
        """The leaves."""
        if self._values is None:
            self._values = tuple(self.backend.unstacked(self._vector))
        return self._values

    @property
    def count(self) -> int:
        """The number of leaves."""
        return self._count


def namespace_of(tree: Leaves) -> LeavesNamespace:
    """Return the functions for ``tree``."""
    return tree.__array_namespace__()


def map_leaves(function: Callable[[Any], Any], state: Any) -> Any:
    """Apply ``function`` to every field, except ``None``, of a state of (nested) named tuples."""
    if state is None:
        return None
    if not isinstance(state, tuple):
        return function(state)
    return type(state)(*(map_leaves(function, field) for field in state))


def fields_of(state: Any) -> list[Any]:
    """Return the fields, except ``None``, of a state of (nested) named tuples."""
    fields: list[Any] = []
    map_leaves(fields.append, state)
    return fields
