"""A check that JAX on this machine keeps the numerics contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from optstudy_core import Algorithm
from optstudy_core import random_formulas as formulas

from .functions import from_core
from .states import by_leaf


def _run(
    rule: Algorithm,
    params: list[np.ndarray],
    grads: list[list[np.ndarray]],
    hyperparameters: dict[str, Any],
    compiler: Callable[..., Any],
) -> list[list[list[np.ndarray]]]:
    def train(params: Any, grads: Any, arrays: dict[str, Any]) -> Any:
        tx = from_core(rule)(**(hyperparameters | arrays))
        state = tx.init(params)
        rows = []
        for g in grads:
            updates, state = tx.update(g, state, params)
            params = jax.tree.map(jax.numpy.add, params, updates)
            rows.append([*by_leaf(state.inner, params), params])
        return rows

    with jax.enable_x64(True):
        arrays = {
            k: jax.numpy.asarray(v) for k, v in hyperparameters.items() if not isinstance(v, float)
        }
        rows = compiler(train)(params, grads, arrays)
        return [[[np.asarray(x) for x in field] for field in row] for row in rows]


def run_jitted(
    rule: Algorithm,
    params: list[np.ndarray],
    grads: list[list[np.ndarray]],
    hyperparameters: dict[str, Any],
) -> list[list[list[np.ndarray]]]:
    """Run a rule with all its steps in one ``jax.jit`` (a ``formulas.Run``)."""
    return _run(rule, params, grads, hyperparameters, jax.jit)


def run_eager(
    rule: Algorithm,
    params: list[np.ndarray],
    grads: list[list[np.ndarray]],
    hyperparameters: dict[str, Any],
) -> list[list[list[np.ndarray]]]:
    """Run a rule one operation after another (a ``formulas.Run``)."""
    return _run(rule, params, grads, hyperparameters, lambda function: function)


def selfcheck(count: int = 200, seed: int = 0) -> list[str]:
    """Search for operations that XLA rewrites on this machine, with random update rules.

    XLA does not promise to keep operations apart: a new release may rewrite operations that the
    last one did not.

    Args:
        count: the number of formulas to try in float32 and in float64; 200 take about half a
            minute.
        seed: the seed of the formulas and values.

    Returns:
        the formulas with other bits under ``jit`` than in NumPy, simplified; an empty list if there
        are none.
    """
    return formulas.search(run_jitted, count, seed=seed)
