"""Estimates of the Hessian's diagonal, for the algorithms that ask for one (``hessian``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def hutchinson(
    loss: Callable[[Any], Any], params: Any, key: Any = None, *, signs: Any = None
) -> Any:
    """Return Hutchinson's estimate of the diagonal of the Hessian of a loss: z·(Hz).

    For independent signs z its mean is the diagonal. It costs about two gradients.

    Args:
        loss: function of the parameters alone, which returns a scalar.
        params: tree of arrays where the Hessian is taken.
        key: of ``jax.random``, to draw the signs.
        signs: z, a tree like the parameters, each +1 or −1, instead of a key.

    Returns:
        a tree like the parameters, for ``tx.update(grads, state, params, hessian=…)``.

    Raises:
        TypeError: if there are both, a key and signs, or neither.

    Source: Hutchinson 1989 (`hutchinson1989stochastic`), as in Sophia (`liu2024sophia`).

    >>> h = hutchinson(lambda x: (x**3).sum(), jnp.array([1.0, 2.0]), jax.random.key(0))
    >>> h.tolist()  # 6·x: exact where H is diagonal
    [6.0, 12.0]
    """
    if (key is None) == (signs is None):
        raise TypeError("hutchinson: allowed is either a key or signs")
    if signs is None:
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        drawn = [
            jax.random.rademacher(k, jnp.shape(p), jnp.result_type(p))
            for k, p in zip(keys, leaves, strict=True)
        ]
        signs = jax.tree.unflatten(treedef, drawn)
    products = jax.jvp(jax.grad(loss), (params,), (signs,))[1]
    return jax.tree.map(jnp.multiply, products, signs)
