"""The epoch methods in JAX, eager and under ``jit``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from parity import backends
from parity.backends import Run
from parity.backends.jax import made
from parity.structures import STRUCTURES, at, nest

from .cases import LR, STEPS, EpochCase
from .methods import METHODS, EpochMethod
from .rows import Rows, distance


def run_in_jax(method: EpochMethod, case: EpochCase, backend: backends.JAXBackend) -> Run:
    """Train a case with ``optstudy_jax.epoch``; if jitted, all epochs in one ``scan``."""
    import jax
    import jax.numpy as jnp

    paths = [leaf.path for leaf in STRUCTURES[case.structure]]
    with backend.here():
        params, grads, target = case.values()
        options = tuple(sorted(case.options.items()))
        key = method.name, case.algorithm, options, case.structure, backend.jitted
        start, one_epoch, jitted = made(method.name, _functions, *key)
        fixed = nest(paths, [jnp.asarray(t) for t in target])
        carry = start(nest(paths, [jnp.asarray(p) for p in params]))
        losses = np.asarray(case.losses, np.float32)
        columns = [
            jnp.asarray(np.stack([np.stack([row[i] for row in steps]) for steps in grads]))
            for i in range(len(paths))
        ]
        stacked = nest(paths, columns)
        if jitted is not None:
            _, noted = jitted(carry, stacked, losses, fixed)
        else:
            every = []
            for k in range(case.steps):
                mine = jax.tree.map(lambda x, k=k: x[k], stacked)
                carry, row = one_epoch(carry, mine, losses[k], fixed)
                every.append(row)
            noted = jax.tree.map(lambda *x: np.stack([np.asarray(v) for v in x]), *every)
        trajectory, named = noted
        rows, counts = Rows(), {}
        if method.kind == "eve" and case.options["along"] == "step":  # a row for each step
            trajectory, named = jax.tree.map(
                lambda x: np.asarray(x).reshape(-1, *np.shape(x)[2:]), (trajectory, named)
            )
        leaves = [np.asarray(at(trajectory, path)) for path in paths]
        counts = {name: np.asarray(column) for name, column in named.items()}
        for k in range(len(leaves[0])):
            rows.add([x[k] for x in leaves], **{name: c[k] for name, c in counts.items()})
    return rows.done()


def _functions(
    name: str,
    algorithm: str,
    options: tuple[tuple[str, Any], ...],
    structure: str,
    jitted: bool,
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any] | None]:
    """Return functions of the start, one epoch and, jitted, all epochs."""
    import jax
    import jax.numpy as jnp
    import optax

    import optstudy_jax
    from optstudy_core.epoch import backstep
    from optstudy_jax import epoch as methods
    from optstudy_jax.epoch._trees import to_float32

    make = optstudy_jax.from_core(algorithm)
    given = dict(options)

    def train(tx: Any, carry: Any, grads: Any) -> Any:
        def step(carry: Any, g: Any) -> Any:
            params, state = carry
            updates, state = tx.update(g, state, params)
            return (optax.apply_updates(params, updates), state), None

        if jitted:
            return jax.lax.scan(step, carry, grads)[0]
        for i in range(STEPS):
            carry, _ = step(carry, jax.tree.map(lambda x, i=i: x[i], grads))
        return carry

    if METHODS[name].kind == "control":
        control = getattr(methods, name)(**given)
        controlled = methods.with_control(make, control, LR)

        def start(params: Any) -> Any:
            return params, controlled.init(params)

        def one_epoch(carry: Any, grads: Any, loss: Any, target: Any) -> Any:
            params, state = train(controlled, carry, grads)
            params, state = methods.end_epoch(control, params, state, value=loss)
            metrics = state.control.metrics
            noted = {"factor": state.control.decided.factor}
            noted |= {n: getattr(metrics, n) for n in ("multiplier", "jump", "cut")}
            if name != "careful":
                noted |= {"size": metrics.size, "cosine": metrics.cosine}
            return (params, state), (params, noted)

    elif name == "eve":
        tx = make(LR)
        along, search = given.pop("along"), given.pop("search")

        def start(params: Any) -> Any:
            return params, tx.init(params)

        def one_epoch(carry: Any, grads: Any, loss: Any, target: Any) -> Any:
            def value(theta: Any) -> Any:
                return distance(jnp, jax.tree.leaves(theta), jax.tree.leaves(target))

            def noted(params: Any, choice: Any) -> Any:
                return params, {"s": choice.s, "loss": choice.loss, "start": choice.start}

            if along == "epoch":
                begin = carry[0]
                params, state = train(tx, carry, grads)
                function = methods.eve if search == "grid" else methods.eve_march
                params, choice = function(params, begin, value, **given)
                return (params, state), noted(params, choice)
            every = []
            for i in range(STEPS):
                params, state = carry
                updates, state = tx.update(jax.tree.map(lambda x, i=i: x[i], grads), state, params)
                if search == "grid":
                    updates, choice = methods.eve_step(updates, params, value, **given)
                    params = optax.apply_updates(params, updates)
                else:
                    after = optax.apply_updates(params, updates)
                    params, choice = methods.eve_march(after, params, value, **given)
                carry = (params, state)
                every.append(noted(params, choice))
            return carry, jax.tree.map(lambda *x: jnp.stack(x), *every)

    elif METHODS[name].kind == "move":
        tx = make(LR)

        def start(params: Any) -> Any:
            zeros = jax.tree.map(jnp.zeros_like, params)
            return (params, tx.init(params)), zeros, methods.epoch_momentum_init(params)

        def one_epoch(carry: Any, grads: Any, loss: Any, target: Any) -> Any:
            run, previous, average = carry
            begin = run[0]
            params, state = train(tx, run, grads)
            if name == "extrapolation":
                step = jax.tree.map(jnp.subtract, params, begin)
                noted = {
                    "size": optstudy_jax.geometry.norm(step),
                    "cosine": optstudy_jax.geometry.cosine(step, previous),
                }
                noted = {k: to_float32(v) for k, v in noted.items()}
                params, previous = methods.extrapolate(params, begin, previous, **given)
            else:
                noted = {}
                average, params = methods.epoch_momentum(average, params, begin, **given)
            return ((params, state), previous, average), (params, noted)

    else:
        tx = make(LR)

        def start(params: Any) -> Any:
            run = (params, tx.init(params))
            return run, backstep.init(run)

        def one_epoch(carry: Any, grads: Any, loss: Any, target: Any) -> Any:
            run, kept = carry
            run = train(tx, run, grads)
            kept, run = methods.backstep(kept, run, undo=~(loss <= 1.0))
            return (run, kept), (run[0], {})

    def all_epochs(carry: Any, grads: Any, losses: Any, target: Any) -> Any:
        def body(carry: Any, epoch: Any) -> Any:
            return one_epoch(carry, epoch[0], epoch[1], target)

        return jax.lax.scan(body, carry, (grads, losses))

    return start, one_epoch, jax.jit(all_epochs) if jitted else None
