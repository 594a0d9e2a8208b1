"""NumPy arrays whose operations are loops in C: for rules that run as they are written, on the CPU.

An operation on large trees is not computed but written down; when someone asks for the values, all
operations that led there are one loop over all leaves, compiled once for whatever sizes they have.
Every operation is rounded as it would be alone. Sums along an axis read what was written down too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from optstudy_core.arrays.leaves import UNKNOWN, Leaves, Reduction, in_order
from optstudy_core.arrays.numpy_backend import NumPy

from .alike import Alike, address
from .c_compiler import library_of, threads_for
from .c_source import head
from .exact_sums_in_c import IN_C, scalars_of, scalars_of_similar
from .loops_in_c import BOOL, loop, merged, sum_along
from .threaded_numpy import ThreadedNumPy
from .trees import dtype_of_result, kind_of, kind_of_tree, shape_of_first, shape_of_result

FEW = 1 << 13
"""Numbers that NumPy computes in less time than it takes to write the operation down."""

_CALL = 1 << 10
"""Numbers that NumPy computes in the time of a call, which it needs for every leaf."""

_MOST = 40
"""Operations of the longest loop: what is asked for again and again is not computed again."""

_SCRATCH = 1 << 14
"""Numbers of float64 that stay in a core's second cache, for a sum along an axis."""


class Loops(ThreadedNumPy):
    """NumPy's operations, those on large trees of one shape in C; exact sums in C.

    Args:
        few: numbers of trees that are not large; a call counts as some, for every leaf.
    """

    def __init__(self, few: int = FEW) -> None:
        self._few = few

    def map(self, operation: str, *args: Any) -> Leaves:
        kind = self._result(operation, args)
        if kind is None:
            return super().map(operation, *args)
        return Deferred(operation, args, kind, self)

    def scalar_of(self, function: Reduction, vectors: Sequence[Sequence[Any]]) -> Any:
        with np.errstate(all="ignore"):
            return function(IN_C, *vectors, exact=True)

    def scalars_of_large(
        self, function: Reduction, rows: Sequence[tuple[Any, ...]]
    ) -> Sequence[Any]:
        found = scalars_of(function, rows)
        return super().scalars_of_large(function, rows) if found is None else found

    def reduce(self, function: Reduction, trees: Sequence[Leaves], whole: bool) -> Leaves:
        for tree in trees:
            if isinstance(tree, Deferred):
                tree.compute()
        vectors = None if whole else self._large(trees)
        found = scalars_of_similar(function, vectors) if vectors else None
        if found is None:
            return super().reduce(function, trees, whole)
        return self.fulls(list(found), trees[0])

    def in_double(
        self, function: Callable[..., Leaves], *trees: Leaves, axis: int | None = None
    ) -> Leaves:
        kinds = self._large(trees) if axis is not None and len(trees) == 1 else None
        if axis is None or kinds is None or not -len(kinds[0].shape) <= axis < len(kinds[0].shape):
            return super().in_double(function, *trees, axis=axis)  # which refuses a wrong axis
        (kind,), (tree,) = kinds, trees
        with np.errstate(all="ignore"):
            (block,) = function(_Wide(tree, kind), axis % len(kind.shape) + 1).values
            return _Rows(Alike.of_rows(block.astype(kind.dtype)), self)

    def joined(self, trees: Sequence[Leaves], parts: Sequence[Sequence[int]]) -> Leaves:
        return trees[0] if len(parts) == 1 else Joined(trees, parts, self)

    def _result(self, operation: str, args: Sequence[Any]) -> Alike | None:
        """Return what an operation gives, or None if it is not written down."""
        trees = [a for a in args if isinstance(a, Leaves)]
        shapes = {*map(shape_of_first, trees)} - {()}
        if not shapes or (len(shapes) == 1 and not self._is_large(trees[0].count, *shapes)):
            return None  # before more is looked at
        kinds = [kind for tree in trees if (kind := kind_of_tree(tree))]
        numbers = [a for a in args if not isinstance(a, Leaves)]
        if len(kinds) < len(trees) or any(type(x) not in (int, float) for x in numbers):
            return None
        shape, dtype = shape_of_result(kinds), dtype_of_result(operation, args, kinds)
        if shape is None or dtype is None or len({len(k) for k in kinds}) > 1:
            return None
        kind = Alike(len(kinds[0]), shape, dtype)
        return kind if self._is_large(len(kind), shape) else None

    def _large(self, trees: Sequence[Leaves]) -> list[Alike] | None:
        """Return what is known of trees of numbers; None if one is small or mixed."""
        kinds = [kind for tree in trees if (kind := kind_of_tree(tree)) and kind.dtype != BOOL]
        fits = len(kinds) == len(trees)
        return kinds if fits and all(self._is_large(len(k), k.shape) for k in kinds) else None

    def _is_large(self, count: int, shape: tuple[int, ...]) -> bool:
        size = math.prod(shape)
        return size > 0 and count * (size + _CALL) >= self._few

    def computed(self, operation: str, args: Sequence[Any]) -> Leaves:
        """Return what NumPy makes of an operation."""
        return super().map(operation, *args)


HOST_ARRAYS = {False: ThreadedNumPy(), None: Loops(), True: Loops(few=0)}
"""What computes on the CPU where a rule runs as it is written, by a group's ``compile``."""


class _Rows(Leaves):
    """Leaves of one shape and dtype, the rows of one array."""

    __slots__ = ()
    backend: Loops

    def __init__(self, kind: Alike, backend: Loops) -> None:
        self._values, self._vector, self.backend, self.kept = None, None, backend, kind

    @property
    def values(self) -> Sequence[Any]:
        """The leaves."""
        if self._values is None:
            self._values = tuple(self.kept.arrays)
        return self._values

    @property
    def count(self) -> int:
        """How many leaves there are."""
        return len(self.kept)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that all leaves have."""
        shape: tuple[int, ...] = self.kept.shape
        return shape


class Deferred(_Rows):
    """What an operation makes of trees, computed when someone asks for it."""

    __slots__ = ("args", "dtypes", "operation", "operations")

    def __init__(self, operation: str, args: tuple[Any, ...], kind: Alike, backend: Loops) -> None:
        super().__init__(kind, backend)
        self.operation, self.args = operation, args
        trees = [a for a in args if isinstance(a, Leaves)]
        waiting = [a for a in trees if isinstance(a, Deferred) and a.waits]
        for a in waiting:
            if a.shape != kind.shape:  # once for each of its numbers, not for each of ours
                a.compute()
        waiting = [a for a in waiting if a.waits]
        self.operations: int = 1 + sum(a.operations for a in waiting)
        self.dtypes = {a.kept.dtype for a in trees} - {BOOL}  # of numbers, in all operations
        self.dtypes = self.dtypes.union(*(a.dtypes for a in waiting))
        if self.operations > _MOST or len(self.dtypes) > 1:
            for a in waiting:
                a.compute()
            self.operations, self.dtypes = 1, {a.kept.dtype for a in trees} - {BOOL}

    @property
    def waits(self) -> bool:
        """Whether it has not been computed yet."""
        return self.kept.addresses is None

    @property
    def values(self) -> Sequence[Any]:
        """The leaves."""
        self.compute()
        return super().values

    def compute(self) -> None:
        """Compute it, if it has not been."""
        if not self.waits:
            return
        kind: Alike = self.kept
        made = Alike.of_rows(np.empty((len(kind), *kind.shape), kind.dtype))
        if self.looped(made):
            self.kept = made
        else:  # there is no compiler
            self.kept = kind_of(self.backend.computed(self.operation, self.args))
        self.args = ()

    def looped(self, to: Alike) -> bool:
        """Compute it; tell whether there is a compiler.

        Args:
            to: where it goes; if it is read as well, a number is read before it is written.
        """
        written = Written(self)
        extents, patterns = merged(to.shape, [x.shape for x in written.trees])
        dtype = next(iter(self.dtypes), np.dtype(np.float32))
        dtypes = tuple(x.dtype for x in written.trees)
        made = loop(tuple(written.lines), len(written.numbers), patterns, dtypes, to.dtype, dtype)
        if made is None:
            return False
        function, threaded = made
        table, lengths = _table([*written.trees, to]), np.array(extents, np.int64)
        c = _numbers(written, dtype)
        places = (address(x) for x in (table, lengths, c))
        function(*places, len(to), to.size, threads_for(to.size, threaded))
        return True


class Joined(Leaves):
    """Trees as one, not computed before someone asks for it."""

    __slots__ = ("parts", "trees")

    def __init__(
        self, trees: Sequence[Leaves], parts: Sequence[Sequence[int]], backend: Loops
    ) -> None:
        self._values, self._vector, self.backend, self.kept = None, UNKNOWN, backend, None
        self.trees, self.parts = trees, parts

    @property
    def values(self) -> Sequence[Any]:
        """The leaves."""
        if self._values is None:
            self._values = tuple(in_order(self.trees, self.parts))
        return self._values

    @property
    def count(self) -> int:
        """How many leaves there are."""
        return sum(map(len, self.parts))


class _Wide(Leaves):
    """The leaves of a tree side by side, as float64, of which sums along an axis are wanted."""

    __slots__ = ("_kind", "_tree")

    def __init__(self, tree: Leaves, kind: Alike) -> None:
        self._values, self._vector, self.backend = None, None, _SUMS
        self._tree, self._kind = tree, kind

    @property
    def values(self) -> Sequence[Any]:
        """One leaf."""
        if self._values is None:
            self._values = (np.stack(self._tree.values).astype(np.float64),)
        return self._values

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of leaves of the tree, and their shape."""
        return len(self._kind), *self._kind.shape

    def sums(self, axis: int) -> np.ndarray | None:
        """Return the sums along one of the axes, which stays with length 1."""
        return _along(self._tree, self._kind, axis - 1)


class _Sums(NumPy):
    """NumPy, with sums along an axis in C."""

    def sum_along(self, x: Leaves, axis: int) -> Leaves | None:
        found = x.sums(axis) if isinstance(x, _Wide) else None
        return None if found is None else Leaves([found], self)


_SUMS = _Sums()


@functools.cache  # what was made once is there
def need_compiler() -> None:
    """Make a library of nothing.

    Raises:
        NoKernelsError: if loops cannot be made.
    """
    library_of(head(torch.float32))


# Loops.


class Written:
    """Operations that lead to a tree, as lines.

    Attributes:
        lines: operations and the names of their arguments; the results are t0, t1, …
        trees: that are read, called x0, x1, …
        numbers: that are read, called h0, h1, …
        result: the name of the tree.
    """

    def __init__(self, root: Leaves) -> None:
        self.lines: list[tuple[str, ...]] = []
        self.trees: list[Alike] = []
        self.numbers: list[float] = []
        self._names: dict[int, str] = {}
        self.result = self._name(root)

    def _name(self, x: Any) -> str:
        if not isinstance(x, Leaves):
            self.numbers.append(x)
            return f"h{len(self.numbers) - 1}"
        name = self._names.get(id(x))
        if name is None:
            if isinstance(x, Deferred) and x.waits:
                self.lines.append((x.operation, *map(self._name, x.args)))
                name = f"t{len(self.lines) - 1}"
            else:
                kind = kind_of_tree(x)
                assert kind is not None
                self.trees.append(kind)
                name = f"x{len(self.trees) - 1}"
            self._names[id(x)] = name
        return name


def _along(tree: Leaves, kind: Alike, axis: int) -> np.ndarray | None:
    """Return the float64 sums of leaves along an axis, or None if they cannot be had from C."""
    written = Written(tree)
    if any(x.shape not in ((), kind.shape) for x in written.trees):
        tree.values  # noqa: B018  (computed, so that it is read and no longer written down)
        written = Written(tree)
    dtypes = tuple((x.dtype, x.shape == ()) for x in written.trees)
    made = sum_along(tuple(written.lines), len(written.numbers), dtypes, written.result, kind.dtype)
    if made is None:
        return None
    shape = kind.shape
    blocks, rows, columns = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    half = 1 << max((rows - 1).bit_length() - 1, 0)
    wide = min(columns, max(_SCRATCH // half, 32))
    pieces = -(-columns // wide)
    items = len(kind) * blocks * pieces
    function, threaded = made
    threads = min(threads_for(kind.size, threaded), items)
    block = np.empty((len(kind), *shape[:axis], 1, *shape[axis + 1 :]))
    room = np.empty((threads, half * wide))
    table, c = _table(written.trees), _numbers(written, kind.dtype)
    function(
        *(address(table), address(c), len(kind), blocks, rows, columns, wide),
        *(address(block), address(room), half * wide, items, threads),
    )
    return block


def _table(kinds: Sequence[Alike]) -> np.ndarray:
    return np.array([x.addresses for x in kinds])


def _numbers(written: Written, dtype: np.dtype) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.array(written.numbers, np.float64).astype(dtype)
