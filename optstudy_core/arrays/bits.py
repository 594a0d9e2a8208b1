"""Bits of float64 numbers, for arrays of every library."""

from __future__ import annotations

import math

import numpy as np

from .namespace import Array, namespace

BIAS = 1023
"""The bias of the exponent of a float64: 2**e is stored as e + 1023."""

DIGITS = 52
"""The number of binary digits of a float64 after the point."""


def to_bits(x: Array) -> Array:
    """Return float64 numbers as int64 numbers with the same bits."""
    return x.view(namespace(x).int64)


def from_bits(x: Array) -> Array:
    """Return int64 numbers as float64 numbers with the same bits."""
    return x.view(namespace(x).float64)


def biased_exponent(x: Array) -> Array:
    """Return e + 1023 with 2ᵉ ≤ x < 2ᵉ⁺¹ for x > 0; 0 for 0, 2047 for infinity and NaN."""
    return (to_bits(x) >> DIGITS) & 0x7FF


def clipped(x: Array, low: int, high: int) -> Array:
    """Return integers clipped to a range."""
    if isinstance(x, np.integer):  # clip would take longer than a sum of hundreds of terms
        return type(x)(min(max(int(x), low), high))
    if isinstance(x, np.ndarray):
        return np.minimum(np.maximum(x, low), high)
    return namespace(x).clip(x, low, high)


def power_of_two(exponent: Array) -> Array:
    """Return 2ᵉ for e + 1023 from 1 to 2046."""
    return from_bits(exponent << DIGITS)


def size(x: Array) -> int:
    """Return the number of elements."""
    return math.prod(x.shape)
