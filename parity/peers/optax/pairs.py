"""How ours and a function of optax are trained side by side."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from parity.pairs import Arrays, Peer, Problem, Runner, average_of, core, rule


def runner(
    make: Callable[[Any], Any],
    lr: float,
    scheduled: bool = True,
    inputs: Sequence[str] = (),
    seen: Callable[[Any, Any], Any] = lambda state, params: params,
) -> Runner:
    """Return what trains with ``make(learning_rate)`` in one jitted scan.

    Args:
        make: makes the transformation of a schedule or, if it takes none, of a number.
        lr: the learning rate where the problem has none of its own.
        scheduled: whether it takes a schedule: then one compilation serves every problem.
        inputs: names of what it is given besides the gradient.
        seen: what is compared, of the state and the parameters after a step; the parameters.
    """

    def scan(params: Any, grads: Any, rates: Any, given: Any) -> Any:
        tx = make((lambda count: rates[count]) if scheduled else lr)

        def body(carry: Any, row: Any) -> Any:
            g, extra = row
            updates, state = tx.update(g, carry[1], carry[0], **extra)
            params = optax.apply_updates(carry[0], updates)
            return (params, state), seen(state, params)

        return jax.lax.scan(body, (params, tx.init(params)), (grads, given))[1]

    jitted = functools.cache(lambda: jax.jit(scan))  # compiled once for all seeds

    def run(problem: Problem) -> list[Arrays]:
        with jax.enable_x64(problem.dtype == np.float64):
            grads = [np.stack(column) for column in zip(*problem.grads, strict=True)]
            rates = np.asarray(problem.rates or [lr] * len(problem.grads), problem.dtype)
            rows = [{k: row[k] for k in inputs} for row in problem.inputs]
            given = jax.tree.map(lambda *x: np.stack(x), *rows)
            columns = [np.asarray(x) for x in jitted()(problem.begin, grads, rates, given)]
        return [[x[t] for x in columns] for t in range(len(problem.grads))]

    return run


def pair(
    algorithm: str,
    theirs: str | Callable[..., Any],
    ours: Mapping[str, Any] | None = None,
    *,
    lr: float = 1e-3,
    cause: str = "",
    scheduled: bool = True,
    dialect: str = "optax",
    chained: Callable[[Any], Any] | None = None,
    name: str | None = None,
    shown: Mapping[str, Any] | None = None,
    average: bool = False,
    **given: Any,
) -> Peer:
    """Return our algorithm and a function of optax.

    Args:
        algorithm: a name of ``ALGORITHMS`` or of ``WRAPPERS``.
        theirs: name of a function of optax, or the function.
        ours: our hyperparameters, without the learning rate.
        lr: the learning rate of both.
        cause: why the two differ, if they do.
        scheduled: whether optax takes a schedule for it.
        dialect: ours.
        chained: further steps around the transformation.
        name: what the function is called; its own name by default.
        shown: the arguments to show; all by default.
        average: compare the averages instead of the parameters; optax's is the end of its state.
        given: optax's arguments, without the learning rate.
    """
    function = getattr(optax, theirs) if isinstance(theirs, str) else theirs
    module = "optax.contrib" if ".contrib." in getattr(function, "__module__", "") else "optax"
    name = name or (theirs if isinstance(theirs, str) else function.__name__)

    def make(rate: Any) -> Any:
        tx = function(rate, **given)
        return tx if chained is None else chained(tx)

    return Peer(
        algorithm,
        dialect,
        f"{module}.{name}",
        {"learning_rate": lr} | given if shown is None else shown,
        core(algorithm, dialect, *([average_of] if average else []), lr=lr, **(ours or {})),
        runner(make, lr, scheduled, [*rule(algorithm).inputs], *([_last] if average else [])),
        cause,
        scheduled,
    )


def same(algorithm: str, theirs: str | Callable[..., Any], **given: Any) -> Peer:
    """Return a pair in which ours and optax's arguments have the same names."""
    own = {k: v for k, v in given.items() if k not in ("lr", "cause", "scheduled", "name")}
    return pair(algorithm, theirs, own, **given)


def _last(state: Any, params: Any) -> Any:
    return state[-1]
