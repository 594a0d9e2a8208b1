"""Schedules of the core in JAX: evaluated in double precision, also under ``jit``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from optstudy_core.arrays.doubles import Doubles
from optstudy_core.schedules import Schedule

from ._backend import BACKEND
from ._rounding import OUTSIDE, Node, leaving, of_counts


@dataclass(frozen=True)
class OfOptax:
    """A schedule of optax: a function of a step count that returns an array.

    Attributes:
        curve: the schedule of the core.
    """

    curve: Schedule

    def __call__(self, count: Any) -> jax.Array:
        """Return the value at a step count, float32 (float64 if it is enabled in JAX)."""
        return jnp.asarray(at(self.curve, count)).astype(jnp.result_type(float))


def schedule(curve: Schedule) -> OfOptax:
    """Return a schedule of ``optstudy_core.schedules`` as a schedule of optax.

    The curve is evaluated in double precision and rounded once to float32 (float64 if it is enabled
    in JAX). The functions of ``optstudy_jax`` also accept the curve itself, and use its value in
    double precision.

    Args:
        curve: any schedule of the core.

    Raises:
        TypeError: if ``curve`` is no schedule of the core.

    >>> import optax
    >>> from optstudy_core.schedules import Cosine
    >>> tx = optax.adam(schedule(Cosine(1e-3, 0.0, 100)))
    >>> float(jax.jit(schedule(Cosine(1.0, 0.0, 100)))(50))
    0.5
    """
    if not isinstance(curve, Schedule):
        raise TypeError(f"curve of type {type(curve).__name__}: allowed are schedules of the core")
    return OfOptax(curve)


def at(function: Callable[[Any], Any], count: Any) -> Any:
    """Return the value of a schedule; float64 for a schedule of the core.

    Args:
        function: a schedule of the core or of optax, or your own function.
        count: the step count, int32.
    """
    curve = function.curve if isinstance(function, OfOptax) else function
    if not isinstance(curve, Schedule):
        return function(count)
    with jax.enable_x64(True):
        t = Node(of_counts(jnp.asarray(count, jnp.int32)), OUTSIDE)
        value = curve.at(Doubles(t, BACKEND))
        return leaving(value.value) if isinstance(value, Doubles) else value
