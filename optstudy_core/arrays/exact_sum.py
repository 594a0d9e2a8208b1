"""Sums of float64 terms that do not depend on order, split, sharding, device or library.

Let M be the largest magnitude of N terms x, P the power of two with P ≤ M < 2·P, n the power of
two ≥ N and W = min(50, 62 − log₂ n). Fold k = 1, 2, … rounds each term to a multiple of a unit, and
the rest is left for the next fold:

    u₁ = 2·P·2⁻ᵂ,  uₖ₊₁ = uₖ·2⁻⁽ᵂ⁺¹⁾,    σ = 1.5·2⁵²·uₖ,    t = σ + x,    x ← x − (t − σ)

t lies in the binade of σ, so its bits, read as an integer, are those of σ plus the multiple. These
integers are added modulo 2⁶⁴, exactly and in any order, by a vector unit, a GPU or several
machines. A multiple is at most 2ᵂ, so the sum of multiples is below 2⁶³, and the integers give it
at the end.

    Σx ≈ Σₖ uₖ·Σ(multiples),    K folds with K·(W + 1) ≥ log₂ n + 54

Two folds are enough for 2²⁴ terms, three for 2³³. The part that they leave out is at most 2⁻⁵³·M.
Combining the integers rounds the result once, and smaller parts before, so

    |result − Σx| ≤ 2⁻⁵³·|Σx| + 2⁻⁵²·M

for N ≤ 2³⁰ (beyond it with Σ|x| for M, and + N·2⁻¹⁰²² where M is below 2⁻⁹⁰⁰).

Folds with a common power of two are from Demmel and Nguyen 2015 (`demmel2015parallel`) and Rump,
Ogita and Oishi 2008 (`rump2008accurate`). With integers, two folds do the work of three, and a
compiler cannot reorder anything.

A sum needs one pass for M and one pass for all folds. A :class:`Library` makes the passes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .bits import BIAS, DIGITS, biased_exponent, clipped, from_bits, power_of_two, size
from .namespace import Array, namespace

Vector = Sequence[Array]
"""The arrays of a tree in a fixed order, as one vector."""

Terms = Callable[..., Iterable[tuple[Array, ...]]]
"""A function of a block of each vector: the terms of each sum, ``(x,)`` or factors ``(x, y)``."""

Parts = Callable[..., Iterator[Array]]
"""A function of a block of each vector: float64 arrays to add as bits."""

_LOW_BITS = 10  # a float64 holds the rest of a sum of multiples


class Library(ABC):
    """The passes of a library over vectors; ``xp`` has its ``sqrt``, ``where`` and ``maximum``.

    Scalars are 0-d arrays (wrapped where operators need it), so nothing waits for a device.
    """

    xp: Any

    @abstractmethod
    def largest(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        """Return, for each sum, the pair max(terms) and max(−terms), NaN if a term is NaN.

        The result may be 0 instead of a negative maximum.
        """

    @abstractmethod
    def totals(self, parts: Parts, vectors: Sequence[Vector], after: Sequence[Any]) -> list[Any]:
        """Return the sums modulo 2⁶⁴ of the bits of each float64 array that ``parts`` yields.

        The sums are int64 scalars, not wrapped.

        Args:
            parts: a function of a block; it may change an array after yielding the next array.
            vectors: vectors of the same shapes.
            after: scalars of the previous pass, for which this pass waits.
        """

    @abstractmethod
    def plain(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        """Return the float64 sums of terms, in any order."""

    def count(self, vector: Vector) -> int:
        """Return the number of terms of a sum over a vector."""
        return sum(size(x) for x in vector)

    def sizes(self, vector: Vector) -> Any:
        """Return the number of elements of a vector as a divisor: 1 for an empty vector."""
        return float(max(1, self.count(vector)))

    def wrap(self, scalar: Array) -> Any:
        """Return a scalar of the library with the operators of ``xp``."""
        return scalar

    def unwrap(self, scalar: Any) -> Array:
        """Return the scalar inside the result of :meth:`wrap`."""
        return scalar


@np.errstate(all="ignore")
def exact_sums(
    library: Library,
    terms: Terms,
    vectors: Sequence[Vector],
    largest: Sequence[Any] | None = None,
) -> list[Any]:
    """Return the exact sum of each of the terms, with the rounding described in this module.

    Args:
        library: the library of the vectors.
        terms: a function that yields float64 terms, with magnitudes below 2⁹⁰⁰ (scale them).
        vectors: vectors of the same shapes, not empty.
        largest: M for each sum, if known (if M is not finite, the sum is M).

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
    """Return the product of one or two factors."""
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
    """Return two halves of the integer of a fold times its unit, each without rounding."""
    integer = total - bits * count
    xp = namespace(integer)
    high, low = integer >> _LOW_BITS, integer & ((1 << _LOW_BITS) - 1)
    # Products with powers of two are exact, so a compiler may contract them with a sum.
    return (
        xp.astype(high, xp.float64) * (unit * 2.0**_LOW_BITS),
        xp.astype(low, xp.float64) * unit,
    )
