"""NumPy arrays whose operations are loops in C: for rules that run as they are written, on the CPU.

An operation on large trees is not computed but written down; when someone asks for the values, all
operations that led there are one loop over all leaves, compiled once for whatever sizes they have.
Every operation is rounded as it would be alone. Sums along an axis read what was written down too.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from optstudy_core.leaves import UNKNOWN, Leaves, NumPy, Reduction, Scalars, in_order

from ._array import NUMPY
from ._c import FORMS, function_of, has_threads, head, library_of, may_use_threads
from ._host import ThreadedNumPy
from ._passes import IN_C, Alike, address, scalars_of, scalars_of_alike
from ._stages import BLOCK, NoKernelsError

FEW = 1 << 13
"""Numbers that NumPy computes in less time than it takes to write the operation down."""

_CALL = 1 << 10
"""Numbers that NumPy computes in the time of a call, which it needs for every leaf."""

_MOST = 40
"""Operations of the longest loop: what is asked for again and again is not computed anew."""

_SCRATCH = 1 << 14
"""Numbers of float64 that stay in a core's second cache, for a sum along an axis."""

_THREADED = ThreadedNumPy()
_BOOL = np.dtype(bool)
_KINDS = {np.dtype(np.float32): "T", np.dtype(np.float64): "T", _BOOL: "bool"}
_TORCH = {np.dtype(kind): dtype for dtype, kind in NUMPY.items()}
_ARITHMETIC = frozenset(
    {"add", "subtract", "multiply", "divide", "negative", "abs", "sign", "sqrt"}
    | {"maximum", "minimum"}
)
_COMPARISONS = frozenset(
    {"isfinite", "less", "less_equal", "greater", "greater_equal", "equal", "not_equal"}
)
_LOGICAL = frozenset({"logical_and", "logical_or", "logical_not"})

_TEXT = """
/* The numbers from begin to end, of all leaves one after another. */
static void part(const void *const *table, const int64_t *extents, const T *c, int64_t leaves,
                 int64_t begin, int64_t end) {{
    {extents}
    {numbers}
    for (int64_t leaf = begin / size; leaf * size < end; ++leaf) {{
        const int64_t first = begin - leaf * size, last = end - leaf * size;
        const int64_t to = last < size ? last : size;
        {leaf}
        for (int64_t row = first > 0 ? first / inner : 0; row * inner < to; ++row) {{
            const int64_t from = first - row * inner, until = to - row * inner;
            const int64_t stop = until < inner ? until : inner;
            {row}
            #pragma omp simd
            for (int64_t i = from > 0 ? from : 0; i < stop; ++i) {{
                {body}
            }}
        }}
    }}
}}

void loop(const void *const *table, const int64_t *extents, const T *c, int64_t leaves,
          int64_t end, int threads) {{
#define PART(number, from, to) part(table, extents, c, leaves, from, to)
    IN_THREADS(threads, 0, end, 64, PART);
}}
"""

_ALONG = """
#define AT(i) ({{ {body} {result}; }})

/* Sums of columns, some columns of one matrix at a time: the lower half of the rows is added to the
   upper one until one row is left, as if there were rows of zeros up to a power of two. */
static void part(const void *const *table, const T *c, int64_t leaves, int64_t blocks, int64_t rows,
                 int64_t columns, int64_t wide, double *made, double *room,
                 int64_t begin, int64_t end) {{
    {numbers}
    const int64_t pieces = (columns + wide - 1) / wide;
    int64_t half = 1;
    while (2 * half < rows)
        half *= 2;
    for (int64_t item = begin; item < end; ++item) {{
        const int64_t block = item / pieces, column = item % pieces * wide;
        const int64_t leaf = block / blocks, left = columns - column;
        const int64_t width = left < wide ? left : wide;
        const int64_t start = block % blocks * rows * columns + column;
        {leaf}
        double *const result = made + block * columns + column;
        if (rows < 2) {{
            for (int64_t i = 0; i < width; ++i)
                result[i] = AT(start + i);
            continue;
        }}
        /* Rows that lie one behind the other are one long row. */
        const int64_t joined = width == columns ? half : 1, length = width * joined;
        const int64_t both = width == columns ? (rows - half) * width : width;
        for (int64_t row = 0; row < half; row += joined) {{
            const int64_t low = start + row * columns, high = low + half * columns;
            const int64_t added = width == columns || row < rows - half ? both : 0;
            double *const sums = room + row * width;
            #pragma omp simd
            for (int64_t i = 0; i < added; ++i)
                sums[i] = AT(low + i) + AT(high + i);
            #pragma omp simd
            for (int64_t i = added; i < length; ++i)
                sums[i] = AT(low + i) + 0.0;
        }}
        for (int64_t n = half / 2; n > 0; n /= 2)
            #pragma omp simd
            for (int64_t i = 0; i < n * width; ++i)
                room[i] += room[i + n * width];
        for (int64_t i = 0; i < width; ++i)
            result[i] = room[i];
    }}
}}

void along(const void *const *table, const T *c, int64_t leaves, int64_t blocks, int64_t rows,
           int64_t columns, int64_t wide, double *made, double *room, int64_t size,
           int64_t end, int threads) {{
#define PART(number, from, to) \\
    part(table, c, leaves, blocks, rows, columns, wide, made, room + (number) * size, from, to)
    IN_THREADS(threads, 0, end, 1, PART);
}}
"""


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
        found = scalars_of_alike(function, vectors) if vectors else None
        if found is None:
            return super().reduce(function, trees, whole)
        return self.fulls(list(found), trees[0])

    def in_double(
        self, function: Callable[..., Leaves], *trees: Leaves, axis: int | None = None
    ) -> Leaves:
        kinds = self._large(trees)
        if axis is None or not kinds or len(kinds) > 1:
            return super().in_double(function, *trees, axis=axis)
        (kind,), (tree,) = kinds, trees
        with np.errstate(all="ignore"):
            (block,) = function(_Wide(tree, kind), axis % len(kind.shape) + 1).values
            return _Rows(Alike.of_rows(block.astype(kind.dtype)), self)

    def doubled(self, function: Callable[..., Leaves], *leaves: Any) -> Any:
        return _THREADED.doubled(function, *leaves)  # of what is computed so, most are products

    def joined(self, trees: Sequence[Leaves], parts: Sequence[Sequence[int]]) -> Leaves:
        return trees[0] if len(parts) == 1 else _Joined(trees, parts, self)

    def _result(self, operation: str, args: Sequence[Any]) -> Alike | None:
        """Return what an operation gives, or None if it is not written down."""
        trees = [a for a in args if isinstance(a, Leaves)]
        shapes = {*map(_shape_of_first, trees)} - {()}
        if not shapes or (len(shapes) == 1 and not self._is_large(trees[0].count, *shapes)):
            return None  # before more is looked at
        kinds = [kind for tree in trees if (kind := _kind(tree))]
        numbers = [a for a in args if not isinstance(a, Leaves)]
        if len(kinds) < len(trees) or any(type(x) not in (int, float) for x in numbers):
            return None
        shape, dtype = _shape(kinds), _dtype(operation, args, kinds)
        if shape is None or dtype is None or len({len(k) for k in kinds}) > 1:
            return None
        kind = Alike(len(kinds[0]), shape, dtype)
        return kind if self._is_large(len(kind), shape) else None

    def _large(self, trees: Sequence[Leaves]) -> list[Alike] | None:
        """Return what is known of trees of numbers; None if one is small or mixed."""
        kinds = [kind for tree in trees if (kind := _kind(tree)) and kind.dtype != _BOOL]
        fits = len(kinds) == len(trees)
        return kinds if fits and all(self._is_large(len(k), k.shape) for k in kinds) else None

    def _is_large(self, count: int, shape: tuple[int, ...]) -> bool:
        size = math.prod(shape)
        return size > 0 and count * (size + _CALL) >= self._few

    def computed(self, operation: str, args: Sequence[Any]) -> Leaves:
        """Return what NumPy makes of an operation."""
        return super().map(operation, *args)


class _Rows(Leaves):
    """Leaves of one shape and dtype, the rows of one array."""

    __slots__ = ()

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

    __slots__ = ("args", "dtypes", "loops", "operation", "operations")

    def __init__(self, operation: str, args: tuple[Any, ...], kind: Alike, backend: Loops) -> None:
        super().__init__(kind, backend)
        self.loops, self.operation, self.args = backend, operation, args
        trees = [a for a in args if isinstance(a, Leaves)]
        waiting = [a for a in trees if isinstance(a, Deferred) and a.waits]
        for a in waiting:
            if a.shape != kind.shape:  # once for each of its numbers, not for each of ours
                a.compute()
        waiting = [a for a in waiting if a.waits]
        self.operations: int = 1 + sum(a.operations for a in waiting)
        self.dtypes = {a.kept.dtype for a in trees} - {_BOOL}  # of numbers, in all operations
        self.dtypes = self.dtypes.union(*(a.dtypes for a in waiting))
        if self.operations > _MOST or len(self.dtypes) > 1:
            for a in waiting:
                a.compute()
            self.operations, self.dtypes = 1, {a.kept.dtype for a in trees} - {_BOOL}

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
        if _looped(self, made):
            self.kept = made
        else:  # there is no compiler
            self.kept = _kind_of(self.loops.computed(self.operation, self.args))
        self.args = ()


class _Joined(Leaves):
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


def check() -> None:
    """Make a library of nothing.

    Raises:
        NoKernelsError: if loops cannot be made.
    """
    library_of(head(torch.float32))


def take_steps(params: Sequence[torch.Tensor], step: Leaves) -> set[int]:
    """Add what is not computed yet to parameters, where they lie; each sum is rounded once.

    Args:
        params: of one device, the CPU.
        step: for each of them.

    Returns:
        the numbers of the parameters that took their step.
    """
    if isinstance(step, Deferred):
        parts: Any = [(step, range(len(params)))]
    else:
        parts = zip(step.trees, step.parts, strict=True) if isinstance(step, _Joined) else ()
    taken: set[int] = set()
    for tree, numbers in parts:
        if not (isinstance(tree, Deferred) and tree.waits):
            continue
        own = [params[i] for i in numbers]
        if all(x.dtype == _TORCH[tree.kept.dtype] and x.is_contiguous() for x in own):
            torch.autograd.graph.increment_version(own)
            before = Leaves((x.detach().numpy() for x in own), tree.loops)
            to = _kind(before)
            if to and _looped(Deferred("add", (before, tree), tree.kept, tree.loops), to):
                taken.update(numbers)
    return taken


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


# What is known of trees.


def _kind(tree: Leaves) -> Alike | None:
    if tree.kept is None:
        tree.kept = _kind_of(tree) or False
    return tree.kept or None


def _kind_of(tree: Leaves) -> Alike | None:
    vector = tree.vector
    if vector is not None:
        vector = np.ascontiguousarray(vector)
        return Alike.of_rows(vector) if vector.dtype in _KINDS else None
    values = tree.values
    if not values or not all(type(x) is np.ndarray for x in values):
        return None
    shape, dtype = values[0].shape, values[0].dtype
    if dtype not in _KINDS or any(x.shape != shape or x.dtype != dtype for x in values):
        return None
    arrays = [np.ascontiguousarray(x) for x in values]
    addresses = [address(x) for x in arrays]
    return Alike(len(values), shape, dtype, np.array(addresses, np.uintp), arrays)


def _shape_of_first(tree: Leaves) -> tuple[int, ...]:
    if isinstance(tree, Scalars):
        return ()
    if tree.kept:
        kept: Alike = tree.kept
        return kept.shape
    return next((x.shape for x in tree.values), ())


def _shape(kinds: Sequence[Alike]) -> tuple[int, ...] | None:
    """Return the shape of what is made of leaves of these kinds, of which one is no scalar."""
    shapes = {kind.shape for kind in kinds} - {()}
    if len(shapes) == 1:
        return shapes.pop()
    try:
        return np.broadcast_shapes(*shapes) if len(set(map(len, shapes))) == 1 else None
    except ValueError:  # NumPy says so
        return None


def _dtype(operation: str, args: Sequence[Any], kinds: Sequence[Alike]) -> np.dtype | None:
    """Return the dtype of the result of an operation on one dtype; None of one on others."""
    dtypes = [kind.dtype for kind in kinds]
    chooses = operation == "where"
    if chooses and not (isinstance(args[0], Leaves) and dtypes.pop(0) == _BOOL):
        return None
    if len(set(dtypes)) != 1:
        return None
    dtype = dtypes[0]
    if operation in _LOGICAL:
        return dtype if dtype == _BOOL and len(kinds) == len(args) else None
    if dtype == _BOOL:
        return None
    if operation in _COMPARISONS:
        return _BOOL
    return dtype if chooses or operation in _ARITHMETIC else None


# Loops.


class _Written:
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
                kind = _kind(x)
                assert kind is not None
                self.trees.append(kind)
                name = f"x{len(self.trees) - 1}"
            self._names[id(x)] = name
        return name


def _looped(root: Deferred, to: Alike) -> bool:
    """Compute a tree; tell whether there is a compiler.

    Args:
        root: the tree.
        to: where it goes; if it is read as well, a number is read before it is written.
    """
    written = _Written(root)
    extents, patterns = _merged(to.shape, [x.shape for x in written.trees])
    dtype = next(iter(root.dtypes), np.dtype(np.float32))
    dtypes = tuple(x.dtype for x in written.trees)
    made = _loop(tuple(written.lines), len(written.numbers), patterns, dtypes, to.dtype, dtype)
    if made is None:
        return False
    function, threaded = made
    table, lengths = _table([*written.trees, to]), np.array(extents, np.int64)
    places = (address(x) for x in (table, lengths, _numbers(written, dtype)))
    function(*places, len(to), to.size, _threads(threaded, to.size))
    return True


def _along(tree: Leaves, kind: Alike, axis: int) -> np.ndarray | None:
    """Return the float64 sums of leaves along an axis, or None if they cannot be had from C."""
    written = _Written(tree)
    if any(x.shape not in ((), kind.shape) for x in written.trees):
        tree.values  # noqa: B018  (computed, so that it is read and no longer written down)
        written = _Written(tree)
    dtypes = tuple((x.dtype, x.shape == ()) for x in written.trees)
    made = _sum(tuple(written.lines), len(written.numbers), dtypes, written.result, kind.dtype)
    if made is None:
        return None
    shape = kind.shape
    blocks, rows, columns = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    half = 1 << max((rows - 1).bit_length() - 1, 0)
    wide = min(columns, max(_SCRATCH // half, 32))
    pieces = -(-columns // wide)
    items = len(kind) * blocks * pieces
    function, threaded = made
    threads = min(_threads(threaded, kind.size), items)
    block = np.empty((len(kind), *shape[:axis], 1, *shape[axis + 1 :]))
    room = np.empty((threads, half * wide))
    table, h = _table(written.trees), _numbers(written, kind.dtype)
    function(
        *(table.ctypes.data, h.ctypes.data, len(kind), blocks, rows, columns, wide),
        *(block.ctypes.data, room.ctypes.data, half * wide, items, threads),
    )
    return block


def _table(kinds: Sequence[Alike]) -> np.ndarray:
    return np.array([x.addresses for x in kinds])


def _numbers(written: _Written, dtype: np.dtype) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.array(written.numbers, np.float64).astype(dtype)


def _threads(threaded: bool, size: int) -> int:
    if not (threaded and may_use_threads()):
        return 1
    return min(1 + size // (2 * BLOCK), torch.get_num_threads())


def _merged(
    shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]]
) -> tuple[list[int], tuple[tuple[bool, ...], ...]]:
    """Return the lengths of axes, neighbours that are alike as one, and who is long along each.

    >>> _merged((2, 3, 1, 4), [(2, 3, 1, 4), (1, 1, 1, 4), ()])
    ([6, 4], ((True, False, False), (True, True, False)))
    """
    lengths: list[int] = []
    patterns: list[tuple[bool, ...]] = []
    for axis, length in enumerate(shape):
        if length == 1:
            continue
        pattern = tuple(bool(x) and x[axis] > 1 for x in shapes)
        if patterns and patterns[-1] == pattern:
            lengths[-1] *= length
        else:
            lengths.append(length)
            patterns.append(pattern)
    if not lengths:  # all have length 1
        return [1], (tuple(map(bool, shapes)),)
    return lengths, tuple(patterns)


def _lines(lines: Sequence[tuple[str, ...]]) -> Iterator[str]:
    for i, (operation, *args) in enumerate(lines):
        truth = operation in _COMPARISONS or operation in _LOGICAL
        yield f"const {'bool' if truth else 'T'} t{i} = {FORMS[operation].format(*args)};"


def _read(numbers: int) -> str:
    return "\n    ".join(f"const T h{i} = c[{i}];" for i in range(numbers))


@functools.cache
def _loop(
    lines: tuple[tuple[str, ...], ...],
    numbers: int,
    patterns: tuple[tuple[bool, ...], ...],
    dtypes: tuple[np.dtype, ...],
    made: np.dtype,
    dtype: np.dtype,
) -> tuple[Any, bool] | None:
    """Return a loop, or None if it cannot be made.

    Args:
        lines: of :class:`_Written`.
        numbers: how many there are.
        patterns: for each axis, which trees are long along it.
        dtypes: of the trees.
        made: dtype of the result.
        dtype: of numbers.
    """
    axes = len(patterns)
    names = [f"e{axis}" for axis in range(axes)]
    extents = [f"const int64_t {x} = extents[{i}];" for i, x in enumerate(names)]
    extents.append(f"const int64_t size = {' * '.join(names)}, inner = e{axes - 1};")
    leaf, row, body = [], [], []
    if axes > 1:
        row.append("int64_t rest = row;")
        row += [
            f"const int64_t i{axis} = rest % e{axis}; rest /= e{axis};"
            for axis in reversed(range(axes - 1))
        ]
    for number, kind in enumerate(_KINDS[x] for x in dtypes):
        longs = [axis for axis in range(axes) if patterns[axis][number]]
        own = f"(const {kind} *)table[{number} * leaves + leaf]"
        if not longs:
            leaf.append(f"const {kind} x{number} = *{own};")
            continue
        leaf.append(f"const {kind} *const own_{number} = {own};")
        offset = "0"
        for axis in longs:
            if axis < axes - 1:
                offset = f"({offset} * e{axis} + i{axis})"
            else:
                offset = f"{offset} * inner"
        row.append(f"const {kind} *const row_{number} = own_{number} + {offset};")
        if axes - 1 in longs:
            body.append(f"const {kind} x{number} = row_{number}[i];")
        else:
            row.append(f"const {kind} x{number} = *row_{number};")
    kind = _KINDS[made]
    leaf.append(f"{kind} *const out = ({kind} *)table[{len(dtypes)} * leaves + leaf];")
    row.append("const int64_t at = row * inner;")
    body += [*_lines(lines), f"out[at + i] = t{len(lines) - 1};"]
    text = _TEXT.format(
        extents="\n    ".join(extents),
        numbers=_read(numbers),
        leaf="\n        ".join(leaf),
        row="\n            ".join(row),
        body="\n                ".join(body),
    )
    kinds: list[Any] = [*[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2, ctypes.c_int]
    return _made(dtype, text, "loop", kinds)


@functools.cache
def _sum(
    lines: tuple[tuple[str, ...], ...],
    numbers: int,
    dtypes: tuple[tuple[np.dtype, bool], ...],
    result: str,
    dtype: np.dtype,
) -> tuple[Any, bool] | None:
    """Return what sums along an axis, or None if it cannot be made.

    Args:
        lines: of :class:`_Written`.
        numbers: how many there are.
        dtypes: of the trees, and whether each has one number for each leaf.
        result: the name of what is added.
        dtype: of numbers.
    """
    leaf, body = [], []
    for number, (own, is_scalar) in enumerate(dtypes):
        kind = _KINDS[own]
        place = f"(const {kind} *)table[{number} * leaves + leaf]"
        if is_scalar:
            leaf.append(f"const {kind} x{number} = *{place};")
        else:
            leaf.append(f"const {kind} *const own_{number} = {place};")
            body.append(f"const {kind} x{number} = own_{number}[i];")
    body += _lines(lines)
    text = _ALONG.format(
        numbers=_read(numbers),
        body=" ".join(body),
        result=f"(double){result}",
        leaf="\n        ".join(leaf),
    )
    kinds: list[Any] = [*[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 5, *[ctypes.c_void_p] * 2]
    return _made(dtype, text, "along", [*kinds, *[ctypes.c_int64] * 2, ctypes.c_int])


def _made(dtype: np.dtype, text: str, name: str, arguments: list[Any]) -> tuple[Any, bool] | None:
    try:
        library = library_of(head(_TORCH[dtype]) + text)
    except NoKernelsError:
        return None
    return function_of(library, name, arguments), has_threads(library)
