"""Curvature of a loss, from products of its Hessian H with vectors.

The adapters deliver the products. Vectors are lists of arrays, one for each layer, all of the same
library and dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add
from typing import Any

from optstudy_core.arrays.namespace import Array, namespace

Product = Callable[[Sequence[Array]], Sequence[Array]]


def hessian_trace(product: Product, signs: Iterable[Sequence[Array]]) -> Array:
    """Return an estimate of the trace of H: the mean of z·Hz over vectors of random signs.

    The expected value is the trace. The variance is 2·Σ Hᵢⱼ² over i ≠ j, divided by the number of
    vectors.

    Args:
        product: a function that returns H·v for a vector v, a list of arrays.
        signs: vectors z, lists of arrays whose elements are +1 or −1.

    Returns:
        array of shape ().

    Cost: about two gradients for each vector.

    Source: Hutchinson 1989 (`hutchinson1989stochastic`).
    """
    found = [_dot(z, product(z)) for z in signs]
    return reduce(add, found) / len(found)


def largest_eigenvalue(product: Product, start: Sequence[Array], iterations: int) -> Array:
    """Return the eigenvalue of H with the largest absolute value, by power iteration.

    The result is the Rayleigh quotient v·Hv of the last vector. Its size is at most that of the
    eigenvalue. It is closer if the next eigenvalue is farther away. The result is 0 if H·v
    vanishes.

    Args:
        product: a function that returns H·v for a vector v, a list of arrays.
        start: a random vector, a list of arrays.
        iterations: the number of multiplications by H, ≥ 1.

    Returns:
        array of shape ().

    Cost: about two gradients for each iteration.

    Source: von Mises and Pollaczek-Geiringer 1929; for networks, Yao et al. 2020 (PyHessian).
    """
    v = _unit(start)
    for _ in range(iterations - 1):
        v = _unit(product(v))
    return _dot(v, product(v))


def step_alpha(step: Sequence[Array], before: Sequence[Array], after: Sequence[Array]) -> Array:
    """Return the end of a step Δ on the parabola with the slopes at its two ends: −(g₁·Δ)/(g₀·Δ).

    0: the step ends at the minimum. −1: the loss falls as steeply as at the start, and the step
    could be much longer. 1: the step ends on the other side of the valley, as high as at the start.
    Above 1: it ends higher than it started.

    Args:
        step: Δ, a list of arrays.
        before: g₀, the gradient of a mini-batch before the step, a list of arrays.
        after: g₁, the gradient of the same mini-batch after it, a list of arrays.

    Returns:
        array of shape ().

    Cost: one more gradient, g₁.

    Source: the α of Cockpit (Schneider, Dangel and Hennig 2021), from slopes alone.

    >>> import numpy as np
    >>> float(step_alpha([np.array([1.0])], [np.array([-2.0])], [np.array([0.0])]))
    0.0
    """
    return -_dot(after, step) / _dot(before, step)


def _dot(u: Sequence[Array], v: Sequence[Array]) -> Array:
    return reduce(add, [namespace(x).sum(x * y) for x, y in zip(u, v, strict=True)])


def _unit(u: Sequence[Array]) -> list[Any]:
    size = _dot(u, u)
    xp = namespace(size)
    norm = xp.sqrt(xp.where(size > 0, size, xp.ones_like(size)))
    return [x / norm for x in u]
