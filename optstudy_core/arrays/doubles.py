"""Numbers in double precision: hyperparameters, step counts, and results of these.

A formula computes 1 − β, lr·λ and 1 − βᵗ in double precision; the result is rounded once in an
operation with an array. A hyperparameter that is a Python number already has double precision. In
the adapters, hyperparameters that are arrays (traced values, tensors), and step counts, are
:class:`Doubles`. So a number and an array with the same value give the same bits.

For these numbers a formula uses the functions of this module instead of those of ``xp``. They also
accept Python numbers, which ``xp`` would turn into arrays.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .namespace import Array, namespace
from .operators import Operators

DIGITS = 31
"""The number of binary digits of a step count."""


class Doubles(Operators):
    """Numbers in double precision that come from arrays, with the operators of a number.

    Args:
        value: float64 or booleans of the backend, of shape (), or one for each leaf.
        backend: the backend that computes the operations.
    """

    __slots__ = ("backend", "value")

    def __init__(self, value: Any, backend: Any) -> None:
        self.value, self.backend = value, backend

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return Functions(self.backend)

    def __repr__(self) -> str:
        return f"Doubles({self.value!r}, {self.backend.name})"


class Functions:
    """The functions of ``xp`` for numbers of a backend."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return functools.partial(self._backend.meet, name)


def of(t: Array) -> Any:
    """Return a step count as a number in double precision.

    Args:
        t: the step count, int32; shape () per leaf.

    >>> import numpy as np
    >>> of(np.int32(3)) / 2
    1.5
    """
    if isinstance(t, Operators):
        return t.backend.counted(t)
    try:
        return float(t)
    except TypeError:  # a traced array: only the default dtype of its library is possible
        return t * namespace(t).asarray(1.0)


def count(number: Any, like: Array) -> Array:
    """Return an integer in double precision as a step count.

    Args:
        number: an integer in double precision, of shape () per leaf.
        like: a step count, int32, of shape () per leaf.

    >>> import numpy as np
    >>> count(3.0, np.int32(2)).dtype
    dtype('int32')
    """
    if isinstance(like, Operators):
        return like.backend.counts(number, like)
    return namespace(like).full_like(like, number)


def sqrt(x: Any) -> Any:
    """Return √x.

    Args:
        x: a number ≥ 0, of shape ().

    >>> sqrt(0.25)
    0.5
    """
    return math.sqrt(x) if isinstance(x, int | float) else namespace(x).sqrt(x)


def maximum(x: Any, y: Any) -> Any:
    """Return the larger of two numbers.

    Args:
        x: a number, of shape ().
        y: a number, of shape ().

    >>> maximum(2.0, 1)
    2.0
    """
    return _function("maximum", max, x, y)


def minimum(x: Any, y: Any) -> Any:
    """Return the smaller of two numbers.

    Args:
        x: a number, of shape ().
        y: a number, of shape ().

    >>> minimum(2.0, 1)
    1
    """
    return _function("minimum", min, x, y)


def remainder(x: Any, y: Any) -> Any:
    """Return x mod y, which is exact.

    Args:
        x: a number ≥ 0, of shape ().
        y: a number > 0, of shape ().

    >>> remainder(7.0, 3)
    1.0
    """
    return _function("remainder", math.fmod, x, y)


def where(condition: Any, x: Any, y: Any) -> Any:
    """Return ``x`` if a comparison of numbers holds, and ``y`` otherwise.

    Args:
        condition: the result of a comparison of numbers, of shape () per leaf.
        x: a number, or an array of any shape.
        y: a number, or an array of the same shape.

    >>> import numpy as np
    >>> where(2.0 > 1.0, 3.0, 4.0), where(2.0 < 1.0, np.zeros(2), 4.0).tolist()
    (3.0, [4.0, 4.0])
    """
    if not isinstance(condition, bool | np.bool_):
        return _function("where", max, condition, x, y)
    chosen, other = (x, y) if condition else (y, x)
    of_array = isinstance(other, np.generic) or not isinstance(other, int | float | Doubles)
    if _is_number(chosen) and of_array:  # np.float64, a leaf of shape (), is a float
        return namespace(other).full_like(other, chosen)
    return chosen


def _function(name: str, of_numbers: Callable[..., Any], *args: Any) -> Any:
    own = next((a for a in args if not _is_number(a)), None)
    return of_numbers(*args) if own is None else getattr(namespace(own), name)(*args)


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float)


def one_minus_power(a: Any, t: Array) -> Any:
    """Return 1 − (1 − a)ᵗ for a in [0, 1].

    The function uses repeated squaring over the binary digits of t, with a instead of 1 − a, so
    that nothing cancels:

        c ← a + c·(1 − a)  for each digit of t that is 1,    a ← a + a·(1 − a)  for the next digit

    (``pow`` differs between libraries, and 1 − βᵗ cancels.) For a given a and t up to 10⁷, the
    result is within 6 units in the last place of float64, so within half a unit of float32.

    Args:
        a: a number or an array of shape ().
        t: the step count, int32; shape () per leaf.

    >>> import numpy as np
    >>> one_minus_power(0.5, np.int32(3))
    0.875
    """
    if isinstance(t, Operators):
        return t.backend.one_minus_power(a, t)
    try:
        whole = int(t)
    except TypeError:  # traced
        xp = namespace(t)
        c = 0 * a
        for _ in range(DIGITS):
            a, c, t = digit(xp.where, a, c, t)
        return c
    return of_number(a, whole) if isinstance(a, float) else _of_one(a, whole)


def digit(choose: Callable[..., Any], a: Any, c: Any, t: Any) -> tuple[Any, Any, Any]:
    """Return a, c and t for the next binary digit."""
    return a + a * (1 - a), choose((t & 1) == 1, a + c * (1 - a), c), t >> 1


def _of_one(a: Any, t: int) -> Any:
    c = 0 * a
    while t > 0:  # ends also for a damaged count
        a, c, t = digit(lambda odd, x, y: x if odd else y, a, c, t)
    return c


of_number = functools.lru_cache(256)(_of_one)
"""1 − (1 − a)ᵗ for Python numbers; the last results are cached."""
