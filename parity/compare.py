"""Comparison of arrays bit by bit, with the first difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

_INTEGERS = {2: np.int16, 4: np.int32, 8: np.int64}


@dataclass(frozen=True)
class Difference:
    """The first difference between the results of a backend and of NumPy.

    Attributes:
        backend: a name in ``parity.backends.NAMES``.
        dtype: the dtype of the case.
        quantity: ``trajectory``, ``state``, ``norm`` or ``angle``.
        step: the number of the step, from 1 (0: a quantity of the whole case).
        leaf: the path of the leaf, with the field of the state.
        index: the index of the element.
        expected: the value in NumPy, as a hexadecimal float.
        found: the value in the backend.
        ulp: the distance in units in the last place; ``None`` if one value is not finite.
        note: a sentence about the cause, if it is known.
    """

    backend: str
    dtype: str
    quantity: str
    step: int
    leaf: str
    index: tuple[int, ...]
    expected: str
    found: str
    ulp: int | None
    note: str = ""

    def __str__(self) -> str:
        where = f"{self.leaf}[{', '.join(map(str, self.index))}]" if self.index else self.leaf
        distance = "" if self.ulp is None else f", {self.ulp} ulp"
        note = f"; {self.note}" if self.note else ""
        return (
            f"{self.backend} {self.dtype}: {self.quantity} at step {self.step}, {where}: "
            f"{_decimal(self.found)} instead of {_decimal(self.expected)}{distance}{note}"
        )


def _decimal(value: str) -> str:
    """Return a hexadecimal float as a decimal number beside it; other texts as they are.

    >>> _decimal("0x1.8p+1")
    '3 (0x1.8p+1)'
    """
    return f"{float.fromhex(value):.9g} ({value})" if "0x" in value else value


@dataclass
class Tolerated:
    """The numbers of differences that the numerics contract allows."""

    signed_zeros: int = 0
    subnormals: int = 0  # against zero


def _bits(x: np.ndarray) -> np.ndarray:
    return x.view(_INTEGERS[x.dtype.itemsize])


def _magnitudes(bits: np.ndarray) -> np.ndarray:
    return bits & np.iinfo(bits.dtype).max


def ulp_distance(x: Any, y: Any) -> int | None:
    """Return the number of representable numbers from x to y; ``None`` if one is not finite.

    Args:
        x: a number, or an array of shape (), of any float dtype.
        y: another number, like ``x``.

    >>> ulp_distance(np.float32(1.0), np.float32(1.0) + np.float32(2.0**-22))
    2
    """
    x, y = np.asarray(x), np.asarray(y)
    if not (np.isfinite(x) and np.isfinite(y)):
        return None

    def place(v: np.ndarray) -> int:
        bits = int(_bits(v.reshape(1))[0])
        return bits if bits >= 0 else -int(_magnitudes(_bits(v.reshape(1)))[0])

    return abs(place(x) - place(y))


def first_unequal(
    expected: np.ndarray, found: np.ndarray, tolerated: Tolerated
) -> tuple[tuple[int, ...], str, str, int | None] | None:
    """Return index, both values and the distance of the first difference of two arrays.

    Any NaN equals any NaN. Zeros of both signs are equal, and a subnormal number equals zero; both
    are counted. The bits are compared as integers, because the floating-point unit may treat
    subnormal numbers as zero.
    """
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return (
            (),
            f"{expected.dtype}{list(expected.shape)}",
            f"{found.dtype}{list(found.shape)}",
            None,
        )
    if expected.size == 0:
        return None
    shape = expected.shape
    a, b = np.ascontiguousarray(expected).reshape(-1), np.ascontiguousarray(found).reshape(-1)
    if a.dtype.kind == "i":  # step counts
        wrong = a != b
        return _at(wrong, shape, lambda i: (str(a[i]), str(b[i]), None)) if wrong.any() else None
    info = ml_dtypes.finfo(a.dtype)
    x, y = _bits(a), _bits(b)
    unequal = x != y
    if not unequal.any():
        return None
    size, other = _magnitudes(x), _magnitudes(y)
    infinity = _bits(np.asarray([np.inf]).astype(a.dtype))[0]
    smallest = _bits(np.asarray([info.smallest_normal]).astype(a.dtype))[0]
    nans = (size > infinity) & (other > infinity)
    zeros = (size == 0) & (other == 0)
    flushed = ((size == 0) & (other < smallest)) | ((other == 0) & (size < smallest))
    tolerated.signed_zeros += int((unequal & zeros).sum())
    tolerated.subnormals += int((unequal & flushed & ~zeros).sum())
    wrong = unequal & ~nans & ~flushed
    if not wrong.any():
        return None
    return _at(wrong, shape, lambda i: (_hex(a[i]), _hex(b[i]), ulp_distance(a[i], b[i])))


def _at(wrong: np.ndarray, shape: tuple[int, ...], shown: Callable[[int], Any]) -> Any:
    """Return the index of the first difference, and the description of it."""
    place = int(np.argmax(wrong))
    index = tuple(int(i) for i in np.unravel_index(place, shape)) if shape else ()
    return index, *shown(place)


def _hex(x: Any) -> str:
    return float(x).hex()
