"""Pairs of our algorithms and functions of optax."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

import optstudy_jax
from parity.pairs import Arrays, Peer, Problem, Runner, average_of, core, parameters, rule
from parity.peers.moving import moved


def runner(
    make: Callable[[Any], Any],
    lr: float,
    scheduled: bool = True,
    inputs: Sequence[str] = (),
    seen: Callable[[Any, Any], Any] = lambda state, params: params,
) -> Runner:
    """Return a function that trains with ``make(learning_rate)`` in one jitted scan.

    Args:
        make: a function of a schedule or, if not ``scheduled``, a number, which returns the
            transformation.
        lr: the learning rate for problems without one.
        scheduled: whether ``make`` takes a schedule; then all problems share a compilation.
        inputs: names of inputs besides the gradient.
        seen: a function of the state and the parameters after a step that returns the arrays to
            compare; by default the parameters.
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
    scheduled: bool = True,
    dialect: str = "optax",
    chained: Callable[[Any], Any] | None = None,
    name: str | None = None,
    shown: Mapping[str, Any] | None = None,
    average: bool = False,
    **given: Any,
) -> Peer:
    """Return a pair of our algorithm and a function of optax.

    Args:
        algorithm: a name in ``ALGORITHMS`` or ``WRAPPERS``.
        theirs: the name of a function of optax, or the function.
        ours: our hyperparameters, without the learning rate.
        lr: the learning rate of both.
        scheduled: whether optax accepts a schedule as learning rate.
        dialect: our dialect.
        chained: further transformations around that of optax.
        name: the name in the table; by default that of the function.
        shown: the arguments to show; all by default.
        average: compare the averages instead of the parameters; in optax the end of the state.
        given: the arguments of optax, without the learning rate.
    """
    function = getattr(optax, theirs) if isinstance(theirs, str) else theirs
    name = name or (theirs if isinstance(theirs, str) else function.__name__)

    def make(rate: Any) -> Any:
        tx = function(rate, **given)
        return tx if chained is None else chained(tx)

    return Peer(
        algorithm,
        dialect,
        f"{_module(function)}.{name}",
        {"learning_rate": lr} | given if shown is None else shown,
        core(algorithm, dialect, average_of if average else parameters, lr=lr, **(ours or {})),
        runner(make, lr, scheduled, [*rule(algorithm).inputs], *([_last] if average else [])),
        scheduled=scheduled,
    )


def same(algorithm: str, theirs: str | Callable[..., Any], **given: Any) -> Peer:
    """Return a pair with the same names of arguments in both."""
    own = {k: v for k, v in given.items() if k not in ("lr", "scheduled", "name")}
    return pair(algorithm, theirs, own, **given)


def moving(
    algorithm: str,
    theirs: str | Callable[..., Any],
    *names: str,
    lr: float = 1e-3,
    **given: Any,
) -> Peer:
    """Return a pair with moving hyperparameters: numbers in ours, injected in optax.

    Args:
        algorithm: a name in ``ALGORITHMS``.
        theirs: the name of a function of optax, or the function.
        names: the names of moving hyperparameters besides the learning rate; ``"alpha=decay"`` if
            optax has another name.
        lr: the learning rate of both at the first step.
        given: further arguments that have the same name in both.
    """
    function = getattr(optax, theirs) if isinstance(theirs, str) else theirs
    called = {own: other or own for own, _, other in (name.partition("=") for name in names)}
    start = rule(algorithm).resolve("optax", given | {"lr": lr})
    first = {own: start[own] for own in called}

    def move(t: int) -> dict[str, float]:
        return {own: moved(own, x, t) for own, x in (first | {"lr": lr}).items()}

    def schedule(own: str, value: float) -> Callable[[Any], Any]:
        def at(count: Any) -> Any:
            table = np.array([moved(own, value, t) for t in range(1000)])
            return jax.numpy.asarray(table)[count]

        return at

    def make(_: Any) -> Any:
        fixed = tuple(
            {*inspect.signature(function).parameters} - {*called.values()} - {"learning_rate"}
        )
        injected = optax.inject_hyperparams(function, static_args=fixed)
        schedules = {called[own]: schedule(own, x) for own, x in first.items()}
        return injected(learning_rate=schedule("lr", lr), **given | schedules)

    return Peer(
        algorithm,
        "optax",
        _called(theirs),
        {"under": "inject_hyperparams", "moving": ", ".join(("learning_rate", *called.values()))}
        | given,
        core(algorithm, "optax", move=move, **given | {"lr": lr}),
        runner(make, lr, False, [*rule(algorithm).inputs]),
        scheduled=False,
    )


def under(
    wrapper: str, wrapped: Callable[[Any], Any], algorithm: str, theirs: Callable[..., Any]
) -> Peer:
    """Return a pair in which a transformation of optax wraps both sides, in JAX.

    Args:
        wrapper: the name of the wrapping transformation, for the table.
        wrapped: a function that wraps a transformation.
        algorithm: a name in ``ALGORITHMS``.
        theirs: the function of optax.
    """
    ours = optstudy_jax.from_core(algorithm)
    return Peer(
        algorithm,
        "optax",
        _called(theirs),
        {"under": wrapper},
        runner(lambda rate: wrapped(lambda: ours(rate, dialect="optax")), 1e-3),
        runner(lambda rate: wrapped(lambda: theirs(rate)), 1e-3),
    )


def _called(theirs: str | Callable[..., Any]) -> str:
    return f"optax.{theirs}" if isinstance(theirs, str) else f"{_module(theirs)}.{theirs.__name__}"


def _module(function: Callable[..., Any]) -> str:
    return "optax.contrib" if ".contrib." in getattr(function, "__module__", "") else "optax"


def _last(state: Any, params: Any) -> Any:
    return state[-1]
