"""Estimates of the Hessian of a loss: the diagonal, the trace and the largest eigenvalue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optstudy_core import instruments


def hutchinson(
    loss: Callable[[Any], Any], params: Any, key: Any = None, *, signs: Any = None
) -> Any:
    """Return Hutchinson's estimate of the diagonal of the Hessian of a loss: z·(Hz).

    For independent signs z, the expected value is the diagonal. The cost is about two gradients.

    Args:
        loss: a function of the parameters that returns a scalar.
        params: the parameters at which to evaluate the Hessian, a tree of arrays.
        key: a key of ``jax.random``, to draw the signs.
        signs: z, a tree like the parameters with elements +1 or −1, instead of a key.

    Returns:
        a tree like the parameters, for ``tx.update(grads, state, params, hessian=…)``.

    Raises:
        TypeError: if both a key and signs are given, or neither.

    Source: Hutchinson 1989 (`hutchinson1989stochastic`), as in Sophia (`liu2024sophia`).

    >>> h = hutchinson(lambda x: (x**3).sum(), jnp.array([1.0, 2.0]), jax.random.key(0))
    >>> h.tolist()  # 6·x: exact where H is diagonal
    [6.0, 12.0]
    """
    if (key is None) == (signs is None):
        raise TypeError("hutchinson: pass either a key or signs")
    if signs is None:
        signs = _drawn(jax.random.rademacher, params, key)
    products = jax.jvp(jax.grad(loss), (params,), (signs,))[1]
    return jax.tree.map(jnp.multiply, products, signs)


def curvature(
    loss: Callable[[Any], Any],
    params: Any,
    key: Any = None,
    *,
    samples: int = 1,
    iterations: int = 20,
) -> dict[str, Any]:
    """Return the trace and the largest eigenvalue of the Hessian of a loss, for a recorder.

    Usage: ``recorder.end_epoch(params, metrics=curvature(loss, params))``. The function also works
    inside ``jit``.

    Args:
        loss: a function of the parameters that returns a scalar.
        params: the parameters at which to evaluate the Hessian, a tree of arrays.
        key: a key of ``jax.random``, to draw the random vectors; ``None`` for a fixed key.
        samples: the number of random vectors for the estimate of the trace (Hutchinson).
        iterations: the number of power iterations.

    Returns:
        ``hessian_trace`` and ``hessian_largest``, scalars by name; see ``hessian_trace`` and
        ``largest_eigenvalue`` in :mod:`optstudy_core.instruments`.

    Raises:
        ValueError: if ``samples`` or ``iterations`` is less than 1.

    >>> found = curvature(lambda x: (x**3).sum(), jnp.array([1.0, 2.0]))
    >>> float(found["hessian_trace"]), round(float(found["hessian_largest"]), 4)
    (18.0, 12.0)
    """
    for name, value in {"samples": samples, "iterations": iterations}.items():
        if value < 1:
            raise ValueError(f"{name} = {value!r}: allowed are whole numbers from 1")
    structure: Any = jax.tree.structure(params)

    def product(vector: Any) -> list[Any]:
        tangent = jax.tree.unflatten(structure, vector)
        return jax.tree.leaves(jax.jvp(jax.grad(loss), (params,), (tangent,))[1])

    first, *others = jax.random.split(jax.random.key(0) if key is None else key, samples + 1)
    draws = [jax.tree.leaves(_drawn(jax.random.rademacher, params, k)) for k in others]
    start = jax.tree.leaves(_drawn(jax.random.normal, params, first))
    return {
        "hessian_trace": instruments.hessian_trace(product, draws),
        "hessian_largest": instruments.largest_eigenvalue(product, start, iterations),
    }


def _drawn(draw: Callable[..., Any], params: Any, key: Any) -> Any:
    """Return a random tree like the parameters."""
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [draw(k, jnp.shape(p), jnp.result_type(p)) for k, p in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, drawn)
