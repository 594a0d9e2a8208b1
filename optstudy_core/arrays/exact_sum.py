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

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .bits import BIAS, DIGITS, biased_exponent, clipped, from_bits, power_of_two, size
from .namespace import Array, namespace

Vector = Sequence[Array]
"""The arrays of a tree in one order; together one vector."""

Terms = Callable[..., Iterable[tuple[Array, ...]]]
"""From a block of each vector, the terms of each sum: ``(x,)`` or the factors ``(x, y)``."""

Parts = Callable[..., Iterator[Array]]
"""From a block of each vector, float64 arrays whose bits are to be added."""

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
        exponent = clipped(exponent, 1, 2 * BIAS - DIGITS)
        sigma = ((exponent + DIGITS) << DIGITS) | (1 << (DIGITS - 1))
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
