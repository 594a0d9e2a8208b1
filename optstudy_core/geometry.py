"""How long a step is and how it is turned: norms and angles of trees as one vector.

A sum over all parameters depends on its order, and the order differs between libraries, splits
and devices. With ``exact=True`` it does not. Let M be the largest magnitude of N float64 terms
x, P the power of two with P ≤ M < 2·P, n the power of two ≥ N, and σ₁ = 4·P·n. Each fold cuts

    q = (1.5·σ + x) − 1.5·σ,    x ← x − q,    σ ← σ·n·2⁻⁵².

The q are multiples of σ·2⁻⁵² and sum to at most σ/2, so every partial sum is exact, in any order.
The folds left out (three are made, more above 2²⁶ terms) hold less than 2⁻⁵³·M in all.
Source: Demmel and Nguyen 2015 (`demmel2015parallel`), Rump, Ogita and Oishi 2008
(`rump2008accurate`).

Products of two float32, bfloat16 or float16 numbers are exact in float64. Products of two float64
numbers are rounded once each, after both vectors were scaled by a power of two (so nothing
overflows); the sum of the rounded products is exact, so the error is at most about 2⁻⁵²·Σ|u·v|.

A tree is an array, or dicts, lists and tuples of trees, or ``None`` (empty). The norm of an empty
tree is 0. A vector of norm 0 has no direction: its cosines and angles are NaN, as they are where
an entry is NaN or infinite; norms and dot products follow IEEE 754 there. No exception is raised
for values. JAX arrays are computed on the host here; inside ``jit`` use
``optstudy_jax.geometry``, which runs these same lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import array_api_compat
import numpy as np

from ._namespace import Array, namespace

Result = TypeVar("Result")


@np.errstate(all="ignore")
def norm(u: Any, *, exact: bool = True) -> float:
    """Return the Euclidean norm ‖u‖₂ of a tree as one vector.

    Args:
        u: tree of real arrays of any shape; float32, float64, bfloat16, float16 or integers.
        exact: independent of order, split and library (see the module); else a plain sum.

    Raises:
        TypeError: for complex arrays.

    >>> norm({"weight": np.float32([[3.0]]), "bias": np.float32(4.0)})
    5.0
    """
    return float(vector_norm(*float64_leaves(u), exact=exact))


@np.errstate(all="ignore")
def dot(u: Any, v: Any, *, exact: bool = True) -> float:
    """Return the dot product of two trees as vectors; error at most about 2⁻⁵²·Σ|u·v|.

    Args:
        u: tree of real arrays.
        v: tree of the same structure and shapes.
        exact: independent of order, split and library; else a plain sum.

    Raises:
        TypeError: for complex arrays.
        ValueError: if structures or shapes differ.

    >>> dot([np.array([1.0, 2.0])], [np.array([3.0, -1.0])])
    1.0
    """
    return float(vector_dot(*float64_leaves(u, v), exact=exact))


@np.errstate(all="ignore")
def cosine(u: Any, v: Any, *, exact: bool = True) -> float:
    """Return the cosine of the angle between two trees; NaN if one of them is zero.

    Args and errors as for :func:`dot`.

    >>> cosine(np.array([2.0, 0.0]), np.array([3.0, 4.0]))
    0.6
    """
    return float(vector_cosine(*float64_leaves(u, v), exact=exact))


@np.errstate(all="ignore")
def angle(u: Any, v: Any, *, degrees: bool = False, exact: bool = True) -> float:
    """Return the angle between two trees, in radians from 0 to π; NaN if one of them is zero.

        φ = 2·atan2(‖u/‖u‖ − v/‖v‖‖, ‖u/‖u‖ + v/‖v‖‖)

    which stays accurate near 0 and π, where the inverse cosine loses half the digits.

    Args:
        u: tree of real arrays.
        v: tree of the same structure and shapes.
        degrees: return degrees from 0 to 180 instead.
        exact: independent of order, split and library; else a plain sum.

    Raises:
        TypeError: for complex arrays.
        ValueError: if structures or shapes differ.

    >>> angle(np.array([1.0, 0.0]), np.array([0.0, -2.0]), degrees=True)
    90.0
    """
    between, across = vector_chords(*float64_leaves(u, v), exact=exact)
    return angle_from_chords(float(between), float(across), degrees=degrees)


def per_leaf(function: Callable[..., float], *trees: Any, **options: Any) -> Any:
    """Apply :func:`norm`, :func:`dot`, :func:`cosine` or :func:`angle` leaf by leaf.

    Returns:
        a tree like ``trees[0]`` with a number for each array.

    Raises:
        ValueError: if structures or shapes differ.

    >>> per_leaf(norm, {"weight": np.array([3.0, 4.0]), "bias": np.array(-2.0)})
    {'weight': 5.0, 'bias': 2.0}
    """
    return map_tree(lambda *leaves: function(*leaves, **options), *trees)


def angle_from_chords(between: float, across: float, *, degrees: bool = False) -> float:
    """Return 2·atan2(‖û − v̂‖, ‖û + v̂‖), on the host in double."""
    radians = 2 * math.atan2(between, across)
    return math.degrees(radians) if degrees else radians


# The parts that run on a device: vectors are lists of float64 arrays, results 0-d arrays.


def vector_norm(u: Sequence[Array], *, exact: bool) -> Any:
    """Return ‖u‖₂ of a list of float64 arrays."""
    if not u:
        return np.float64(0.0)
    xp = namespace(u[0])
    if not exact:
        return xp.sqrt(_sum(xp, [x * x for x in u], exact))
    scale = _leading_power(xp, u)
    scaled = [x / scale for x in u]
    return xp.sqrt(_sum(xp, [x * x for x in scaled], exact)) * scale


def vector_dot(u: Sequence[Array], v: Sequence[Array], *, exact: bool) -> Any:
    """Return u·v of two lists of float64 arrays."""
    if not u:
        return np.float64(0.0)
    xp = namespace(u[0])
    if not exact:
        return _sum(xp, [x * y for x, y in zip(u, v, strict=True)], exact)
    u_scale, v_scale = _leading_power(xp, u), _leading_power(xp, v)
    products = [(x / u_scale) * (y / v_scale) for x, y in zip(u, v, strict=True)]
    return _sum(xp, products, exact) * u_scale * v_scale


def vector_cosine(u: Sequence[Array], v: Sequence[Array], *, exact: bool) -> Any:
    """Return u·v / (‖u‖·‖v‖) of two lists of float64 arrays."""
    if not u:
        return np.float64(math.nan)
    xp = namespace(u[0])
    u, v = _scaled(xp, u), _scaled(xp, v)
    lengths = vector_norm(u, exact=exact) * vector_norm(v, exact=exact)
    value = vector_dot(u, v, exact=exact) / lengths
    one = xp.ones_like(value)
    return xp.maximum(xp.minimum(value, one), -one)


def vector_chords(u: Sequence[Array], v: Sequence[Array], *, exact: bool) -> tuple[Any, Any]:
    """Return ‖û − v̂‖ and ‖û + v̂‖ of two lists of float64 arrays."""
    if not u:
        return np.float64(math.nan), np.float64(math.nan)
    xp = namespace(u[0])
    u_unit, v_unit = _unit(xp, u, exact), _unit(xp, v, exact)
    pairs = list(zip(u_unit, v_unit, strict=True))
    between = vector_norm([x - y for x, y in pairs], exact=exact)
    across = vector_norm([x + y for x, y in pairs], exact=exact)
    return between, across


def _scaled(xp: Any, u: Sequence[Array]) -> list[Array]:
    """Return u over the power of two below its largest magnitude, so that nothing overflows."""
    scale = _leading_power(xp, u)
    return [x / scale for x in u]


def _unit(xp: Any, u: Sequence[Array], exact: bool) -> list[Array]:
    """Return u/‖u‖; NaN if the norm is 0."""
    scaled = _scaled(xp, u)
    length = vector_norm(scaled, exact=exact)
    return [x / length for x in scaled]


def _leading_power(xp: Any, arrays: Sequence[Array]) -> Array:
    """Return the power of two P ≤ M < 2·P below the largest finite magnitude M (1 if M is 0).

    P = |q − (1 − 2⁻⁵³)·q| with q = (2⁵² + 1)·M (Rump 2009, `rump2009ultimately`), after M was
    moved away from the ends of the range.
    """
    largest = _largest(xp, arrays)
    one = xp.ones_like(largest)
    away = xp.where(largest < 1.0, one * 2.0**60, one * 2.0**-60)
    q = (largest * away) * (2.0**52 + 1.0)
    power = abs(q - (1.0 - 2.0**-53) * q) / away
    return xp.where(power == 0.0, one, power)


def _largest(xp: Any, arrays: Sequence[Array]) -> Array:
    """Return the largest finite magnitude, 0 if there is none."""
    largest = None
    for x in arrays:
        magnitudes = xp.where(xp.isfinite(x), abs(x), xp.zeros_like(x))
        here = xp.max(magnitudes)
        largest = here if largest is None else xp.maximum(largest, here)
    return largest


def _sum(xp: Any, terms: Sequence[Array], exact: bool) -> Array:
    """Return the sum of every term of every array."""
    if not exact:
        return _plain_sum(xp, terms)
    count = max(1, sum(_size(x) for x in terms))
    bits = (count - 1).bit_length()  # n = 2**bits
    folds = max(3, -(-(bits + 55) // (52 - bits)))
    sigma = _leading_power(xp, terms) * 2.0 ** (bits + 2)
    rest = list(terms)
    totals = []
    for _ in range(folds):
        splitter = 1.5 * sigma
        cut = [(splitter + x) - splitter for x in rest]
        totals.append(_plain_sum(xp, cut))
        rest = [x - q for x, q in zip(rest, cut, strict=True)]
        sigma = sigma * 2.0 ** (bits - 52)
    total = totals[-1]
    for part in reversed(totals[:-1]):
        total = part + total
    # Infinities and NaN are all in the first fold; they make NaN of the others.
    return xp.where(xp.isfinite(totals[0]), total, totals[0])


def _plain_sum(xp: Any, terms: Sequence[Array]) -> Array:
    total = xp.sum(terms[0])
    for x in terms[1:]:
        total = total + xp.sum(x)
    return total


def _size(x: Array) -> int:
    return math.prod(x.shape)


# Trees.


def map_tree(function: Callable[..., Result], *trees: Any) -> Any:
    """Apply ``function`` to the arrays of trees of the same structure."""
    first = trees[0]
    if first is None:
        return None
    if isinstance(first, Mapping | list | tuple):
        for other in trees[1:]:
            same = isinstance(other, Mapping) == isinstance(first, Mapping)
            if not (isinstance(other, Mapping | list | tuple) and same):
                raise ValueError(f"trees differ: {type(first).__name__} and {type(other).__name__}")
            if isinstance(first, Mapping) and set(first) != set(other):
                raise ValueError(f"trees differ: keys {sorted(first)} and {sorted(other)}")
            if len(first) != len(other):
                raise ValueError(f"trees differ: {len(first)} and {len(other)} entries")
        if isinstance(first, Mapping):
            return {key: map_tree(function, *(t[key] for t in trees)) for key in first}
        values = [map_tree(function, *entries) for entries in zip(*trees, strict=True)]
        if isinstance(first, list):
            return values
        return type(first)(*values) if hasattr(first, "_fields") else tuple(values)
    for other in trees[1:]:
        if not hasattr(other, "shape") or tuple(other.shape) != tuple(first.shape):
            raise ValueError(
                f"shapes differ: {tuple(first.shape)} and "
                f"{tuple(getattr(other, 'shape', ())) if other is not None else None}"
            )
    return function(*trees)


def float64_leaves(*trees: Any) -> tuple[list[Array], ...]:
    """Return the non-empty arrays of trees of the same structure in float64, in one order."""
    columns: tuple[list[Array], ...] = tuple([] for _ in trees)

    def add(*leaves: Any) -> None:
        if _size(leaves[0]) > 0:
            for column, leaf in zip(columns, leaves, strict=True):
                column.append(_float64(leaf))

    map_tree(add, *trees)
    return columns


def _float64(x: Any) -> Array:
    if "complex" in str(x.dtype):  # isdtype does not know bfloat16
        raise TypeError(f"dtype {x.dtype}: allowed are real dtypes")
    if array_api_compat.is_jax_array(x):
        x = np.asarray(x)
    xp = namespace(x)
    wide = xp.astype(x, xp.float64)
    # torch's root is not exact on the CPU; there NumPy computes in the tensor's memory.
    on_cpu = array_api_compat.is_torch_array(wide) and wide.device.type == "cpu"
    return wide.detach().numpy() if on_cpu else wide
