"""Sums, norms, cosines and chords of vectors: the code for all libraries.

A vector is a list of arrays that are not empty; results are float64 scalars of the library.
:mod:`optstudy_core.geometry` says what the numbers are, and applies these functions to trees.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .bits import BIAS, biased_exponent, clipped, power_of_two
from .exact_sum import Library, Vector, exact_sums
from .namespace import Array


def vector_total(library: Library, u: Vector, *, exact: bool) -> Any:
    """Return the sum of the elements of u."""
    if not u:
        return np.float64(0.0)
    if not exact:
        return library.plain(lambda x: ((x,),), (u,))[0]
    scaled = _Scaled(library, u)
    (value,) = exact_sums(library, lambda x: ((scaled(x),),), (u,))
    return scaled.back(value)


def vector_norm(library: Library, u: Vector, *, exact: bool) -> Any:
    """Return ‖u‖₂."""
    if not u:
        return np.float64(0.0)
    if not exact:
        return library.xp.sqrt(library.plain(lambda x: (_square(x),), (u,))[0])
    scaled = _Scaled(library, u)
    return scaled.back(_scaled_norm(library, scaled))


def vector_dot(library: Library, u: Vector, v: Vector, *, exact: bool) -> Any:
    """Return u·v."""
    if not u:
        return np.float64(0.0)
    if not exact:
        return library.plain(lambda x, y: ((x, y),), (u, v))[0]
    s, t = _Scaled(library, u), _Scaled(library, v)
    (value,) = exact_sums(library, lambda x, y: ((s(x), t(y)),), (u, v))
    return s.back(value, t)


def vector_cosine(library: Library, u: Vector, v: Vector, *, exact: bool) -> Any:
    """Return u·v / (‖u‖·‖v‖)."""
    if not u:
        return np.float64(math.nan)
    xp = library.xp
    s, t = _Scaled(library, u, exact), _Scaled(library, v, exact)

    def terms(x: Array, y: Array) -> Iterator[tuple[Array, ...]]:
        x, y = s(x), t(y)
        yield x, y
        yield _square(x)
        yield _square(y)

    def ends(x: Array, y: Array) -> Iterator[tuple[Array, ...]]:
        x, y = s(x), t(y)
        yield x, y
        yield (x,)
        yield (y,)

    if exact:
        both, end, other = (xp.maximum(*pair) for pair in library.largest(ends, (u, v)))
        product, uu, vv = exact_sums(library, terms, (u, v), [both, end * end, other * other])
    else:
        product, uu, vv = library.plain(terms, (u, v))
    value = product / (xp.sqrt(uu) * xp.sqrt(vv))
    one = xp.ones_like(value)
    return xp.maximum(xp.minimum(value, one), -one)


def vector_chords(library: Library, u: Vector, v: Vector, *, exact: bool) -> tuple[Any, Any]:
    """Return ‖û − v̂‖ and ‖û + v̂‖, as ‖(‖v‖·u ∓ ‖u‖·v)‖ / (‖u‖·‖v‖)."""
    if not u:
        return np.float64(math.nan), np.float64(math.nan)
    xp = library.xp
    s, t = _Scaled(library, u, exact), _Scaled(library, v, exact)
    if exact:
        u_norm, v_norm = _scaled_norm(library, s), _scaled_norm(library, t)
    else:
        u_norm, v_norm = (vector_norm(library, x, exact=False) for x in (u, v))

    def chords(x: Array, y: Array) -> Iterator[tuple[Array, ...]]:
        x, y = v_norm * s(x), u_norm * t(y)
        yield (x - y,)
        yield (x + y,)

    def squares(x: Array, y: Array) -> Iterator[tuple[Array, ...]]:
        for (chord,) in chords(x, y):
            yield _square(chord)

    if exact:
        ends = [xp.maximum(up, down) for up, down in library.largest(chords, (u, v))]
        sums = exact_sums(library, squares, (u, v), [end * end for end in ends])
    else:
        sums = library.plain(squares, (u, v))
    lengths = u_norm * v_norm
    between, across = (xp.sqrt(value) / lengths for value in sums)
    return between, across


class _Scaled:
    """Float64 vectors divided by the power of two below the largest magnitude; others unchanged.

    Args:
        library: the library of the vector.
        u: the vector.
        exact: whether sums are exact; plain sums are not scaled.
    """

    def __init__(self, library: Library, u: Vector, exact: bool = True) -> None:
        self.library, self.vector = library, u
        self.is_wide = exact and any(is_wide(x.dtype) for x in u)
        self._largest: Any = None
        self.exponent: Any = 0
        if self.is_wide:
            # Away from the ends of the range, where there is no power of two for the inverse.
            exponent = biased_exponent(library.unwrap(self._measure()))
            exponent = clipped(exponent, BIAS - 1000, BIAS + 1000)
            self.exponent = exponent - BIAS
            self._inverse = library.wrap(power_of_two(2 * BIAS - exponent))

    def _measure(self) -> Any:
        if self._largest is None:
            ((up, down),) = self.library.largest(lambda x: ((x,),), (self.vector,))
            self._largest = self.library.xp.maximum(up, down)
        return self._largest

    @property
    def largest(self) -> Any:
        """The largest magnitude of the scaled vector."""
        return self(self._measure())

    def __call__(self, x: Any) -> Any:
        """Return a part of the vector, scaled."""
        return x * self._inverse if self.is_wide else x

    def back(self, value: Any, other: _Scaled | None = None) -> Any:
        """Return a sum over this vector (or products with another) as of the unscaled ones."""
        exponent = self.exponent + (0 if other is None else other.exponent)
        if isinstance(exponent, int):
            return value
        half = exponent >> 1  # in two parts, so that nothing but the result overflows
        for part in (half, exponent - half):
            value = value * self.library.wrap(power_of_two(part + BIAS))
        return value


def _scaled_norm(library: Library, scaled: _Scaled) -> Any:
    def terms(x: Array) -> Iterator[tuple[Array, ...]]:
        yield _square(scaled(x))

    largest = scaled.largest
    (value,) = exact_sums(library, terms, (scaled.vector,), [largest * largest])
    return library.xp.sqrt(value)


def _square(x: Array) -> tuple[Array, Array]:
    return x, x


@functools.cache
def is_wide(dtype: Any) -> bool:
    """Return whether the elements may have magnitudes that overflow when they are squared."""
    return any(name in str(dtype) for name in ("float64", "float128", "longdouble"))
