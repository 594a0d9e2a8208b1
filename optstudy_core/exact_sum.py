"""Sums of float64 terms that do not depend on order, split, sharding, device or library.

Let M be the largest magnitude of N terms x, P the power of two with P ≤ M < 2·P, n the power of
two ≥ N and W = min(50, 62 − log₂ n). Fold k = 1, 2, … rounds what is left of each term to a
multiple of a unit and keeps the rest:

    u₁ = 2·P·2⁻ᵂ,  uₖ₊₁ = uₖ·2⁻⁽ᵂ⁺¹⁾,    σ = 1.5·2⁵²·uₖ,    t = σ + x,    x ← x − (t − σ)

t lies in the binade of σ, so its bits, read as an integer, are those of σ plus the multiple. These
integers are added modulo 2⁶⁴: exactly and in any order, whatever adds them (a vector unit, a GPU,
several machines). A multiple is at most 2ᵂ, so their sum is below 2⁶³ and is read off at the end.

    Σx ≈ Σₖ uₖ·Σ(multiples),    K folds with K·(W + 1) ≥ log₂ n + 54

Two folds do up to 2²⁴ terms, three up to 2³³. What they leave out is at most 2⁻⁵³·M in all, and
putting the integers together rounds the result once and less important parts before, so

    |result − Σx| ≤ 2⁻⁵³·|Σx| + 2⁻⁵²·M

for N ≤ 2³⁰ (beyond it with Σ|x| for M, and + N·2⁻¹⁰²² where M is below 2⁻⁹⁰⁰).

The idea of folds against a common power of two is that of Demmel and Nguyen 2015
(`demmel2015parallel`) and Rump, Ogita and Oishi 2008 (`rump2008accurate`); the integers let two
folds do the work of three, and leave nothing for a compiler to reorder.

A sum needs one pass for M and one for all folds. How a library makes them is a :class:`Library`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import array_api_compat
import numpy as np

from ._namespace import Array, namespace

Vector = Sequence[Array]
"""The arrays of a tree in one order; together one vector."""

Terms = Callable[..., Iterable[tuple[Array, ...]]]
"""From a block of each vector, the terms of each sum: ``(x,)`` or the factors ``(x, y)``."""

Parts = Callable[..., Iterator[Array]]
"""From a block of each vector, float64 arrays whose bits are to be added."""

BIAS = 1023
"""Of a float64's exponent: 2**e is stored as e + 1023."""

_BLOCK = 16_384  # float64 numbers: three arrays of this size stay in a core's second cache
_CHUNK = 1 << 18  # numbers copied to the host at once, where a tensor's memory cannot be read
_DIGITS = 52
_LOW_BITS = 10  # what is above them in a sum of multiples, a float64 holds


class Library(ABC):
    """How one library passes over vectors; ``xp`` has its ``sqrt``, ``where`` and ``maximum``.

    Scalars are 0-d arrays (wrapped where operators need it), so nothing waits for a device.
    """

    xp: Any

    @abstractmethod
    def largest(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        """Return, for each sum, the pair max(terms) and max(−terms), NaN if a term is NaN.

        Instead of a negative maximum it may return 0.
        """

    @abstractmethod
    def totals(self, parts: Parts, vectors: Sequence[Vector], after: Sequence[Any]) -> list[Any]:
        """Return the sums modulo 2⁶⁴ of the bits of each float64 array that ``parts`` yields.

        They are int64 scalars, not wrapped.

        Args:
            parts: of a block; it may change an array once it is asked for the next one.
            vectors: of the same shapes.
            after: scalars of the pass before, on which this one waits.
        """

    @abstractmethod
    def plain(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        """Return the float64 sums of terms, in whatever order is fast."""

    def count(self, vector: Vector) -> int:
        """Return how many terms a sum over a vector has."""
        return sum(size(x) for x in vector)

    def sizes(self, vector: Vector) -> Any:
        """Return how many entries a vector has, to divide by: 1 of an empty one."""
        return float(max(1, self.count(vector)))

    def wrap(self, scalar: Array) -> Any:
        """Return a scalar of the library as one with the operators of ``xp``."""
        return scalar

    def unwrap(self, scalar: Any) -> Array:
        """Undo :meth:`wrap`."""
        return scalar


class Blockwise(Library):
    """Passes in blocks: what NumPy and torch share."""

    @abstractmethod
    def groups(self, vectors: Sequence[Vector]) -> Iterable[tuple[Any, Iterator[Any]]]:
        """Yield blocks, float64 arrays of a vector each, by where their sums are to be joined."""

    def joined(self, group: Any, values: Array, operation: str) -> Array:
        """Return the ``"max"`` or ``"sum"`` of each of the values over the devices of a group."""
        return values

    def blocks(self, rows: Iterable[tuple[Array, ...]], length: int) -> Iterator[Any]:
        """Yield blocks of about that length; small leaves share one, and there is one at least."""
        small: list[tuple[Array, ...]] = []
        waiting, wanted = 0, True
        for leaves in rows:
            if size(leaves[0]) * 4 > length:
                wanted = False
                yield from self.cut(leaves, length)
                continue
            small.append(leaves)
            waiting += size(leaves[0])
            if waiting >= length:
                wanted = False
                yield self.gather(small)
                small, waiting = [], 0
        if small and (waiting or wanted):
            yield self.gather(small)

    @abstractmethod
    def cut(self, leaves: tuple[Array, ...], length: int) -> Iterator[tuple[Array, ...]]:
        """Yield float64 blocks of arrays of one shape."""

    @abstractmethod
    def gather(self, rows: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
        """Return one float64 block of the arrays of each vector."""

    @abstractmethod
    def reduce(self, operation: str, x: Array, axis: int | None = None) -> Array:
        """Return the ``"max"``, ``"min"`` or ``"sum"`` of ``x``."""

    @abstractmethod
    def stack(self, scalars: Sequence[Any]) -> Array:
        """Return an array of scalars, or of arrays of the same length."""

    @abstractmethod
    def dot(self, x: Array, y: Array) -> Array:
        """Return the plain dot product of two blocks."""

    def largest(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        def extremes(*block: Array) -> Iterator[Array]:
            for factors in terms(*block):
                term = product(factors)
                yield self.reduce("max", term)
                yield -self.reduce("min", term)

        found = self.pass_over(extremes, vectors, "max")
        return list(zip(found[::2], found[1::2], strict=True))

    def totals(self, parts: Parts, vectors: Sequence[Vector], after: Sequence[Any]) -> list[Any]:
        def sums(*block: Array) -> Iterator[Array]:
            for part in parts(*block):
                yield self.reduce("sum", part.view(self.xp.int64))

        return self.pass_over(sums, vectors, "sum")

    def plain(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        def sums(*block: Array) -> Iterator[Array]:
            for factors in terms(*block):
                yield self.dot(*factors) if len(factors) == 2 else self.reduce("sum", *factors)

        return self.pass_over(sums, vectors, "sum")

    def pass_over(
        self,
        function: Callable[..., Iterator[Array]],
        vectors: Sequence[Vector],
        operation: str,
    ) -> list[Any]:
        """Return the ``"max"`` or ``"sum"`` of what a function of blocks yields, each by itself."""
        groups = []
        for group, blocks in self.groups(vectors):
            rows = [self.stack(list(function(*block))) for block in blocks]
            groups.append(
                self.joined(group, self.reduce(operation, self.stack(rows), 0), operation)
            )
        return list(self.reduce(operation, self.stack(groups), 0))


class Host(Blockwise):
    """NumPy, over arrays of any library, without a copy of more than a block where it can."""

    xp = np
    block = _BLOCK
    _reductions: Mapping[str, np.ufunc] = {"max": np.maximum, "min": np.minimum, "sum": np.add}

    def groups(self, vectors: Sequence[Vector]) -> Iterable[tuple[Any, Iterator[Any]]]:
        return [(None, self.blocks(zip(*vectors, strict=True), self.block))]

    def cut(self, leaves: tuple[Array, ...], length: int) -> Iterator[tuple[Array, ...]]:
        for piece in _pieces(leaves):
            yield from _blocks(piece, length)

    def gather(self, rows: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
        columns = zip(*rows, strict=True)
        flat = ([to_numpy(x).reshape(-1) for x in column] for column in columns)
        return tuple(np.concatenate(arrays, dtype=np.float64) for arrays in flat)

    def reduce(self, operation: str, x: Array, axis: int | None = None) -> Array:
        return self._reductions[operation].reduce(x, axis)

    def stack(self, scalars: Sequence[Any]) -> Array:
        return np.array(scalars)

    def dot(self, x: Array, y: Array) -> Array:
        half = _BLOCK // 2  # BLAS wakes threads for more than 10,000 numbers, and waits for them
        return x[:half] @ y[:half] + x[half:] @ y[half:]


HOST = Host()


class Columns(Host):
    """NumPy, over several small vectors at once: a scalar is an array with one for each.

    A vector is one array with a column for each of them, padded with zeros, which change no sum.

    Args:
        lengths: of the columns without the padding.
    """

    most = 1 << 12
    """Up to as many terms a sum has the same folds, however many they are."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = lengths

    def side_by_side(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Return arrays of one dtype, with these lengths, as columns."""
        columns = np.zeros((max(self._lengths), len(arrays)), arrays[0].dtype)
        for i, x in enumerate(arrays):
            columns[: x.size, i] = x.reshape(-1)
        return columns

    def count(self, vector: Vector) -> int:
        return len(vector[0])

    def sizes(self, vector: Vector) -> Any:
        return np.array(self._lengths, np.float64)

    def groups(self, vectors: Sequence[Vector]) -> Iterable[tuple[Any, Iterator[Any]]]:
        return [(None, iter([tuple(x.astype(np.float64) for (x,) in vectors)]))]

    def reduce(self, operation: str, x: Array, axis: int | None = None) -> Array:
        return super().reduce(operation, x, 0)

    def dot(self, x: Array, y: Array) -> Array:
        return self.reduce("sum", x * y)


def _blocks(arrays: tuple[np.ndarray, ...], length: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield float64 blocks of arrays of one shape and any layout; NumPy reuses its buffers."""
    iterator = np.nditer(
        arrays,
        flags=["external_loop", "buffered"],
        op_dtypes=[np.float64] * len(arrays),
        casting="same_kind",
        buffersize=length,
    )
    for block in iterator:
        columns = block if isinstance(block, tuple) else (block,)
        if columns[0].size <= length:
            yield columns
            continue
        for i in range(0, columns[0].size, length):  # contiguous float64 arrays come whole
            yield tuple(x[i : i + length] for x in columns)


def _pieces(leaves: tuple[Array, ...]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield leaves as NumPy arrays: whole if they share their memory, else flat and in chunks."""
    if not any(map(_must_be_copied, leaves)):
        yield tuple(map(to_numpy, leaves))
        return
    flat = [_local(x).reshape(-1) for x in leaves]
    for i in range(0, size(leaves[0]), _CHUNK):
        yield tuple(to_numpy(x[i : i + _CHUNK]) for x in flat)


def _must_be_copied(x: Array) -> bool:
    return array_api_compat.is_torch_array(x) and (
        x.device.type != "cpu" or not _has_numpy_dtype(x)
    )


def _has_numpy_dtype(x: Any) -> bool:
    name = str(x.dtype).removeprefix("torch.")
    return not name.startswith(("bfloat", "float8"))


def _local(x: Array) -> Array:
    if not array_api_compat.is_torch_array(x):
        return x
    # A sharded tensor of torch has to be put together to be read; see optstudy_torch.geometry.
    return x.full_tensor().detach() if hasattr(x, "full_tensor") else x.detach()


def to_numpy(x: Array) -> np.ndarray:
    """Return an array of any library as NumPy's, in its own memory where that is possible."""
    if array_api_compat.is_torch_array(x):
        x = _local(x).cpu()
        return np.asarray((x if _has_numpy_dtype(x) else x.float()).numpy())
    return np.asarray(x)


# Exact sums, the same lines for every library.


@np.errstate(all="ignore")
def exact_sums(
    library: Library,
    terms: Terms,
    vectors: Sequence[Vector],
    largest: Sequence[Any] | None = None,
) -> list[Any]:
    """Return the exact sum of each of the terms, rounded as the module says.

    Args:
        library: of the vectors.
        terms: float64, of magnitudes below 2⁹⁰⁰ (scale them).
        vectors: of the same shapes, with entries.
        largest: for each sum its M, if it is known (where it is not finite, it is the sum).

    Returns:
        float64 scalars of the library.
    """
    xp = library.xp
    if largest is None:
        pairs = library.largest(terms, vectors)
        largest = [xp.maximum(up, down) for up, down in pairs]
        not_finite = [up - down for up, down in pairs]  # one of them is 0 or finite, or it is NaN
    else:
        not_finite = list(largest)
    count = library.count(vectors[0])
    plans = [_folds(library.unwrap(m), count) for m in largest]

    def parts(*block: Array) -> Iterator[Array]:
        for factors, plan in zip(terms(*block), plans, strict=True):
            rest = product(factors)
            for number, (splitter, _, _) in enumerate(plan):
                sigma = library.wrap(splitter)
                t = sigma + rest
                yield t
                if number + 1 < len(plan):
                    t -= sigma
                    rest = rest - t

    integers = iter(library.totals(parts, vectors, largest))
    sums = []
    for m, other, plan in zip(largest, not_finite, plans, strict=True):
        halves = [
            library.wrap(half)
            for _, bits, unit in plan
            for half in _read(next(integers), bits, unit, count)
        ]
        total = halves[-1]
        for half in reversed(halves[:-1]):  # the smallest first
            total = half + total
        sums.append(xp.where(xp.isfinite(m), total, other))
    return sums


def product(factors: tuple[Array, ...]) -> Array:
    """Return a term of its one or two factors."""
    return factors[0] * factors[1] if len(factors) == 2 else factors[0]


def _folds(largest: Array, count: int) -> list[tuple[Array, Array, Array]]:
    """Return σ, its bits and the unit of each fold."""
    bits = (count - 1).bit_length()
    width = min(50, 62 - bits)
    folds = -(-(bits + 54) // (width + 1))
    exponent = biased_exponent(largest) + (1 - width)
    plan = []
    for _ in range(folds):
        exponent = clipped(exponent, 1, 2 * BIAS - _DIGITS)
        sigma = ((exponent + _DIGITS) << _DIGITS) | (1 << (_DIGITS - 1))
        plan.append((from_bits(sigma), sigma, power_of_two(exponent)))
        exponent = exponent - (width + 1)
    return plan


def _read(total: Array, bits: Array, unit: Array, count: int) -> tuple[Array, Array]:
    """Return the two halves of a fold's integer times its unit, each without a rounding."""
    integer = total - bits * count
    xp = namespace(integer)
    high, low = integer >> _LOW_BITS, integer & ((1 << _LOW_BITS) - 1)
    # Products with powers of two: no rounding, so a compiler may contract them with a sum.
    return (
        xp.astype(high, xp.float64) * (unit * 2.0**_LOW_BITS),
        xp.astype(low, xp.float64) * unit,
    )


# Bits of float64 numbers, for arrays of every library.


def to_bits(x: Array) -> Array:
    """Return float64 numbers as the int64 with the same bits."""
    return x.view(namespace(x).int64)


def from_bits(x: Array) -> Array:
    """Return int64 numbers as the float64 with the same bits."""
    return x.view(namespace(x).float64)


def biased_exponent(x: Array) -> Array:
    """Return e + 1023 with 2ᵉ ≤ x < 2ᵉ⁺¹ for x > 0; 0 for 0, 2047 for infinity and NaN."""
    return (to_bits(x) >> _DIGITS) & 0x7FF


def clipped(x: Array, low: int, high: int) -> Array:
    """Return whole numbers within two others."""
    if isinstance(x, np.integer):  # for which clip takes longer than a sum of hundreds of terms
        return type(x)(min(max(int(x), low), high))
    return namespace(x).clip(x, low, high)


def power_of_two(exponent: Array) -> Array:
    """Return 2ᵉ for e + 1023 from 1 to 2046."""
    return from_bits(exponent << _DIGITS)


def size(x: Array) -> int:
    """Return the number of entries."""
    return math.prod(x.shape)
