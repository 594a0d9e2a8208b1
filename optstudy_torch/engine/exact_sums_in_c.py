"""Passes of exact sums over leaves on the CPU, each a loop in C.

Here :mod:`optstudy_core.exact_sum` runs on symbols instead of blocks, and the recorded operations
become the body of a loop. Both kinds of passes reduce integers, in any order:

- Sums of bits are sums of 64-bit integers, modulo 2⁶⁴.
- The bits of positive numbers, infinity and NaN, read as integers, have the order of the numbers.
  Negative numbers are integers below 0. So the largest of x and of −x are largest integers, ≥ 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from optstudy_core.arrays.bits import size
from optstudy_core.arrays.exact_sum import Parts, Terms, Vector
from optstudy_core.arrays.leaves import Reduction
from optstudy_core.arrays.passes import HOST, Columns, Host

from .alike import TORCH, Alike, address
from .c_compiler import Loop, loop_of, threads_for
from .c_source import OVER_LEAVES, head, over_leaves
from .errors import NoKernelsError
from .source import INFIX
from .sum_lines import Lines, products_of

_FEW = 1 << 10
"""Number of elements that NumPy adds in less time than a call of C takes."""

_READ = {
    torch.float32: ("float", "(double){0}"),
    torch.float64: ("double", "{0}"),
    torch.bfloat16: ("uint16_t", "(double)of_bits((uint32_t){0} << 16)"),
}
"""For each dtype, the type in C and the conversion to float64."""

_HELPERS = """
#include <string.h>
static inline float of_bits(uint32_t x) { float y; memcpy(&y, &x, sizeof y); return y; }
static inline int64_t bits(double x) { int64_t y; memcpy(&y, &x, sizeof y); return y; }
static inline int64_t larger(int64_t x, int64_t y) { return x > y ? x : y; }
"""


class InC(Host):
    """Sums in C over NumPy arrays and CPU tensors of torch; sums in NumPy where C is no faster.

    Scalars are those of NumPy.
    """

    def largest(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        found = self._found(products_of(terms), vectors, True)
        return super().largest(terms, vectors) if found is None else _pairs(found.max(0))

    def totals(self, parts: Parts, vectors: Sequence[Vector], after: Sequence[Any]) -> list[Any]:
        found = self._found(parts, vectors, False)
        return super().totals(parts, vectors, after) if found is None else list(found.sum(0))

    def _found(
        self, sources: Callable[..., Iterator[Any]], vectors: Sequence[Vector], extremes: bool
    ) -> np.ndarray | None:
        few = sum(size(x) for x in vectors[0]) < _FEW
        return None if few else passed(sources, vectors, extremes)


class _Each(Host):
    """A separate sum for each leaf: a scalar is an array with one element for each leaf.

    The sums are those of leaves that are padded with zeros to the length of the longest leaf.
    """

    def largest(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        return _pairs(_needed(passed(products_of(terms), vectors, True)).T)

    def totals(self, parts: Parts, vectors: Sequence[Vector], after: Sequence[Any]) -> list[Any]:
        return self.padded(self.sums(parts, vectors), parts, vectors)

    def sums(self, parts: Parts, vectors: Sequence[Vector]) -> list[Any]:
        """Return :meth:`totals` without the padding."""
        return list(_needed(passed(parts, vectors, False)).T)

    def padded(self, sums: list[Any], parts: Parts, vectors: Sequence[Vector]) -> list[Any]:
        """Return sums with the zeros of the padding."""
        missing = self.count(vectors[0]) - _sizes(vectors[0])
        zeros = (np.zeros(len(missing)) for _ in vectors)
        return [
            total + missing * part.view(np.int64)
            for total, part in zip(sums, parts(*zeros), strict=True)
        ]

    def count(self, vector: Vector) -> int:
        return int(_sizes(vector).max())

    def sizes(self, vector: Vector) -> Any:
        return _sizes(vector).astype(np.float64)


IN_C = InC()
EACH = _Each()


def kind_of_length(x: Any) -> int:
    """Return a key that is equal for arrays that :data:`EACH` can sum together; 0 if empty.

    Such sums have the same folds, so the bits are those of separate sums.
    """
    fewest = 1 << (Columns.most.bit_length() - 2)
    return max(size(x) - 1, fewest).bit_length() if size(x) else 0


def scalars_of(function: Reduction, rows: Sequence[Sequence[Any]]) -> list[Any] | None:
    """Return a float64 scalar for each leaf, or ``None`` if C cannot compute the scalars.

    Args:
        function: a function of :mod:`optstudy_core.reductions`.
        rows: for each leaf, its array in each of the trees.
    """
    alike: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        alike.setdefault((kind_of_length(row[0]), *(x.dtype for x in row)), []).append(i)
    found: dict[int, Any] = {}
    for (length, *_), numbers in alike.items():
        if not length:
            found |= dict.fromkeys(numbers, function(HOST, *([] for _ in rows[0]), exact=True))
            continue
        scalars = scalars_of_similar(function, [*zip(*(rows[i] for i in numbers), strict=True)])
        if scalars is None:
            return None
        found |= zip(numbers, scalars, strict=True)
    return [found[i] for i in range(len(rows))]


def scalars_of_similar(function: Reduction, vectors: Sequence[Vector]) -> np.ndarray | None:
    """Return a float64 scalar for each leaf, or ``None`` if C cannot compute the scalars.

    Args:
        function: a function of :mod:`optstudy_core.reductions`.
        vectors: for each tree, its leaves, not empty and of similar sizes, so that the sums have
            the same folds.
    """
    try:
        return each_sum(function, vectors)
    except NoKernelsError:
        return None


def each_sum(function: Reduction, vectors: Sequence[Vector]) -> np.ndarray:
    """Return the result of :func:`scalars_of_similar`.

    Raises:
        NoKernelsError: if C cannot compute the scalars.
    """
    with np.errstate(all="ignore"):
        found: np.ndarray = function(EACH, *vectors, exact=True)
    return found


def passed(
    sources: Callable[..., Iterator[Any]], vectors: Sequence[Vector], extremes: bool
) -> np.ndarray | None:
    """Pass over vectors.

    Args:
        sources: a function that returns float64 arrays from a block of each vector.
        vectors: vectors of the same shapes.
        extremes: whether to find the bits of the largest x and of the largest −x of each array;
            otherwise the sum of the bits.

    Returns:
        int64, a row for each leaf; ``None`` if C cannot do it.
    """
    tables = _tables(vectors)
    if tables is None:
        return None
    lines = Lines()
    results = lines.results(sources, len(vectors))
    found = []
    for dtypes, table, sizes, _owners in tables:
        made = _made(tuple(lines.lines), len(lines.numbers), results, dtypes, extremes)
        if made is None:
            return None
        of_threads = _run(made, table, sizes, lines.numbers, len(results) * (1 + extremes))
        found.append(of_threads.max(0) if extremes else of_threads.sum(0))
    return found[0] if len(found) == 1 else np.concatenate(found)


def _needed(found: np.ndarray | None) -> np.ndarray:
    if found is None:
        raise NoKernelsError
    return found


def _pairs(found: np.ndarray) -> list[Any]:
    numbers = iter(np.ascontiguousarray(found).view(np.float64))
    return list(zip(numbers, numbers, strict=True))  # pairs of successive elements


@functools.lru_cache(512)
def _made(
    lines: Sequence[tuple[str, str, str]],
    numbers: int,
    results: Sequence[str],
    dtypes: Sequence[torch.dtype],
    extremes: bool,
) -> Loop | None:
    """Return the function of a pass and whether it uses threads; ``None`` without a compiler."""
    body = []
    leaf = [f"const double c{i} = ((const double *)scalars[{i}])[column];" for i in range(numbers)]
    for i, dtype in enumerate(dtypes):
        kind, read = _READ[dtype]
        leaf.append(f"const {kind} *const own_{i} = table[{i} * leaves + leaf];")
        body.append(f"const double x{i} = {read.format(f'own_{i}[i]')};")
    for i, (operation, *args) in enumerate(lines):
        body.append(f"const double t{i} = {INFIX[operation].format(*args)};")
    if extremes:
        results = [number for x in results for number in (x, f"-{x}")]
        body += [f"f{i} = larger(f{i}, bits({x}));" for i, x in enumerate(results)]
    else:
        body += [f"f{i} += (uint64_t)bits({x});" for i, x in enumerate(results)]
    count = len(results)
    leaf += [f"{'int64_t' if extremes else 'uint64_t'} f{i} = 0;" for i in range(count)]
    end = [f"found[leaf * {count} + {i}] = (int64_t)f{i};" for i in range(count)]
    text = over_leaves("pass", "", leaf, body, end=end, results=count)
    return loop_of(head(torch.float64) + _HELPERS + text, "pass", OVER_LEAVES)


def _tables(
    vectors: Sequence[Vector],
) -> list[tuple[Sequence[torch.dtype], np.ndarray, np.ndarray, Any]] | None:
    """Return dtypes, addresses, sizes and the owners of the memory, for leaves of the same dtypes.

    The result is ``None`` if a loop cannot read the memory of a leaf.
    """
    if all(isinstance(x, Alike) for x in vectors):
        known: Any = vectors
        dtypes, table = [TORCH[x.dtype] for x in known], np.array([x.addresses for x in known])
        return [(tuple(dtypes), table, _sizes(known[0]), known)]
    rows: dict[Any, list[tuple[torch.Tensor, ...]]] = {}
    for leaves in zip(*vectors, strict=True):
        row = tuple(x for leaf in leaves if (x := _tensor(leaf)) is not None)
        if len(row) < len(leaves) or not all(x.data_ptr() or not x.numel() for x in row):
            return None
        rows.setdefault(tuple(x.dtype for x in row), []).append(row)
    return [
        (
            dtypes,
            np.array([[x.data_ptr() for x in column] for column in zip(*same, strict=True)]),
            np.array([row[0].numel() for row in same]),
            same,
        )
        for dtypes, same in rows.items()
    ]


def _sizes(vector: Vector) -> np.ndarray:
    if isinstance(vector, Alike):
        return np.full(len(vector), vector.each)
    return np.array([size(x) for x in vector])


def _run(
    made: Loop, table: np.ndarray, sizes: np.ndarray, numbers: Sequence[Any], results: int
) -> np.ndarray:
    """Return the results of each thread for each leaf."""
    function, threaded = made
    leaves = len(sizes)
    total = int(sizes.sum())
    threads = threads_for(total, threaded)
    c = np.empty((len(numbers), leaves))
    for own, number in zip(c, numbers, strict=True):
        own[:] = number
    rows = np.array([address(own) for own in c], np.uintp)
    found = np.zeros((threads, leaves, results), np.int64)
    columns = np.arange(leaves)
    places = (address(x) for x in (table, sizes, columns, rows, c, found))
    function(*places, leaves, 0, total, threads)
    return found


def _tensor(leaf: Any) -> torch.Tensor | None:
    """Return a leaf as a tensor with memory that a loop can read, or ``None``."""
    if isinstance(leaf, np.ndarray):
        if not (leaf.flags.writeable and leaf.dtype.isnative):
            return None  # torch cannot use the memory of the array
        leaf = torch.from_numpy(leaf)
    if leaf.dtype not in _READ:
        return None
    return leaf.detach().resolve_neg().contiguous()


def is_plain(tensor: torch.Tensor) -> bool:
    """Return whether the memory of a tensor is on the CPU and holds its elements."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.device.type != "cpu":
        return False
    try:
        return tensor.data_ptr() != 0 and not tensor.is_neg()
    except RuntimeError:  # tensors wrapped by torch.func have no address
        return False
