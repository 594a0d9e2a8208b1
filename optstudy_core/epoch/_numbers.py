"""The numbers in decisions, and the allowed values of the hyperparameters of epoch methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.namespace import Array, namespace
from optstudy_core.arrays.numbers import DECAY_RATE, NON_NEGATIVE, Range, is_number

SMALLEST: Final = float(np.finfo(np.float32).tiny)
LARGEST: Final = float(np.finfo(np.float32).max)

RANGES: Final[Mapping[str, Range]] = {
    "r": Range(at_least=0.0, at_most=1.0),
    "tau": NON_NEGATIVE,
    "gamma": Range(at_least=0.0, at_most=1.0),
    "growth": Range(at_least=1.0),
    "lr": NON_NEGATIVE,
    "beta": DECAY_RATE,
    "h": Range(at_least=SMALLEST, at_most=LARGEST),
    "min_lr": Range(at_least=0.0, at_most=LARGEST),
    "max_lr": Range(at_least=0.0, at_most=LARGEST),
}


def check(name: str, value: Any) -> None:
    """Refuse a number out of its range; accept arrays (traced values).

    Raises:
        TypeError: if the value is of the wrong kind.
        ValueError: if it is out of range.

    >>> check("gamma", 1.5)
    Traceback (most recent call last):
    ValueError: gamma = 1.5: allowed are numbers from 0 to 1
    """
    allowed = RANGES[name]
    if is_number(value):
        if not allowed.holds(float(value)):
            raise ValueError(f"{name} = {value!r}: allowed are {allowed}")
    elif not hasattr(value, "dtype") or isinstance(value, np.bool_):
        raise TypeError(f"{name} = {value!r}: allowed are {allowed}")


def check_flag(name: str, value: Any) -> None:
    """Refuse values other than True and False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} = {value!r}: allowed are True and False")


def check_count(name: str, value: Any) -> None:
    """Refuse values other than integers ≥ 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} = {value!r}: allowed are whole numbers >= 1")
    if value < 1:
        raise ValueError(f"{name} = {value!r}: allowed are whole numbers >= 1")


def check_limits(min_lr: Any, max_lr: Any) -> None:
    """Refuse bounds of the learning rate that are no numbers, or with min_lr > max_lr."""
    check("min_lr", min_lr)
    check("max_lr", max_lr)
    if is_number(min_lr) and is_number(max_lr) and min_lr > max_lr:
        raise ValueError(f"min_lr = {min_lr!r}: allowed are numbers <= max_lr = {max_lr!r}")


def float32(x: Any) -> Array:
    """Return a number or array in float32 (a number that is too large becomes infinite).

    >>> float32(0.1).dtype
    dtype('float32')
    """
    if isinstance(x, Leaves):
        return x
    if is_number(x) or isinstance(x, np.ndarray):
        with np.errstate(all="ignore"):
            return np.asarray(x).astype(np.float32)
    xp = namespace(x)
    return xp.astype(x, xp.float32)
