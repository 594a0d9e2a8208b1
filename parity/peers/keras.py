"""Peers in ``keras.optimizers``, on the JAX backend of Keras.

The NumPy backend of Keras 3 computes in float32 even for float64 arrays, and the torch backend runs
other code under the same names. ``weight_decay`` of Keras is always decoupled, and Keras has no
``maximize``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

os.environ["KERAS_BACKEND"] = "jax"  # read when Keras is imported

import keras

from parity.pairs import Arrays, Peer, Problem, Runner, core, rule
from parity.peers.moving import moved


def runner(name: str, moving: tuple[str, ...] = (), **given: Any) -> Runner:
    """Return a function that trains with a class of ``keras.optimizers`` in one jitted scan.

    Args:
        name: the name of the class.
        moving: attributes of the optimizer that are set before each step.
        given: the arguments of the class.
    """

    @functools.cache  # compiled once for all seeds
    def prepared(dtype: str, shapes: tuple[tuple[int, ...], ...]) -> tuple[Any, Any, int, Any]:
        """Return the scan, the initial state, the index of the rate and the moving attributes."""
        optimizer = getattr(keras.optimizers, name)(**given)
        optimizer.build([keras.Variable(np.zeros(s), dtype=dtype) for s in shapes])
        paths = [v.path for v in optimizer.variables]
        rate = paths.index(f"{optimizer.name}/learning_rate")

        def body(carry: Any, row: Any) -> Any:
            params, state = carry
            grads, lr, values = row
            for attribute, value in values.items():
                setattr(optimizer, attribute, value)
            state = [lr if i == rate else x for i, x in enumerate(state)]
            params, state = optimizer.stateless_apply(state, grads, params)
            return (params, state), params

        scan = jax.jit(lambda start, rows: jax.lax.scan(body, start, rows)[1])
        first = {attribute: getattr(optimizer, attribute) for attribute in moving}
        return scan, [v.value for v in optimizer.variables], rate, first

    def run(problem: Problem) -> list[Arrays]:
        before, dtype = keras.config.floatx(), problem.dtype.name
        keras.config.set_floatx(dtype)
        try:
            with jax.enable_x64(dtype == "float64"):
                scan, state, rate, first = prepared(dtype, tuple(x.shape for x in problem.begin))
                steps = range(len(problem.grads))
                grads = [np.stack(column) for column in zip(*problem.grads, strict=True)]
                rates = problem.rates or [float(state[rate])] * len(problem.grads)
                values = {
                    attribute: np.array(
                        [moved(NAMES.get(attribute, attribute), x, t) for t in steps]
                    )
                    for attribute, x in first.items()
                }
                rows = (grads, np.asarray(rates, dtype), values)
                columns = [np.asarray(x) for x in scan((problem.begin, state), rows)]
        finally:
            keras.config.set_floatx(before)
        return [[x[t] for x in columns] for t in range(len(problem.grads))]

    return run


NAMES = {
    "learning_rate": "lr",
    "beta_1": "b1",
    "beta_2": "b2",
    "epsilon": "eps",
}
"""Names in Keras of arguments with other names here."""


def pair(
    algorithm: str,
    name: str,
    renamed: Mapping[str, str] | None = None,
    **given: Any,
) -> Peer:
    """Return a pair of our dialect "keras" and a class of Keras with the same arguments.

    Args:
        algorithm: a name in ``ALGORITHMS``.
        name: the name of the class.
        renamed: names of arguments besides :data:`NAMES`.
        given: the arguments in Keras.
    """
    names = NAMES | dict(renamed or {})
    ours = {names.get(k, k): v for k, v in given.items()}
    return Peer(
        algorithm,
        "keras",
        f"keras.optimizers.{name}",
        given,
        core(algorithm, "keras", **ours),
        runner(name, **given),
    )


def moving(algorithm: str, name: str, *attributes: str, **given: Any) -> Peer:
    """Return a pair with attributes of the Keras optimizer that are set before each step.

    Args:
        algorithm: a name in ``ALGORITHMS``.
        name: the name of the class.
        attributes: the moving attributes.
        given: arguments that have the same name in both.
    """
    own = _RHO | NAMES if algorithm == "rmsprop" else NAMES
    values = rule(algorithm).resolve("keras", given)
    first = {own.get(a, a): values[own.get(a, a)] for a in attributes}

    def move(t: int) -> dict[str, float]:
        return {k: moved(k, x, t) for k, x in first.items()}

    return Peer(
        algorithm,
        "keras",
        f"keras.optimizers.{name}",
        {"under": "changes by hand", "moving": ", ".join(attributes)} | given,
        core(algorithm, "keras", move=move, **given),
        runner(name, attributes, **given),
    )


_RHO = {"rho": "alpha"}
_ADAFACTOR = {
    "beta_2_decay": "beta2_decay",
    "epsilon_1": "eps1",
    "epsilon_2": "eps2",
    "clip_threshold": "d",
}


PEERS = [
    pair("sgd", "SGD"),
    pair("sgd", "SGD", momentum=0.9),
    pair("sgd", "SGD", momentum=0.9, nesterov=True, weight_decay=0.1),
    pair("sgd", "SGD", nesterov=True),
    pair("adam", "Adam"),
    pair("adam", "Adam", learning_rate=-1e-3),
    pair("adam", "Adam", beta_1=0.8, beta_2=0.95, epsilon=1e-5, learning_rate=0.01),
    pair("adamw", "AdamW"),
    pair("adamw", "AdamW", weight_decay=0.1, learning_rate=0.01),
    pair("adamw", "Adam", weight_decay=0.1),
    pair("adamax", "Adamax"),
    pair("adamax", "Adamax", beta_1=0.8, beta_2=0.95, epsilon=1e-5),
    pair("adamaxw", "Adamax", weight_decay=0.1),
    pair("nadam", "Nadam"),
    pair("nadam", "Nadam", beta_1=0.8, beta_2=0.95, epsilon=1e-5, weight_decay=0.1),
    pair("adagrad", "Adagrad"),
    pair("adagrad", "Adagrad", initial_accumulator_value=0.0, weight_decay=0.1),
    pair("adadelta", "Adadelta"),
    pair("adadelta", "Adadelta", learning_rate=1.0, rho=0.9, weight_decay=0.1),
    pair("rmsprop", "RMSprop"),
    pair("rmsprop", "RMSprop", _RHO, rho=0.95, momentum=0.9, weight_decay=0.1),
    pair("rmsprop", "RMSprop", momentum=0.9, centered=True, epsilon=1e-5),
    pair("lion", "Lion"),
    pair("lion", "Lion", beta_1=0.8, beta_2=0.95, weight_decay=0.1),
    pair("adafactor", "Adafactor", _ADAFACTOR),
    pair(
        "adafactor",
        "Adafactor",
        _ADAFACTOR,
        learning_rate=0.5,
        beta_2_decay=-0.6,
        epsilon_1=1e-6,
        epsilon_2=0.1,
        clip_threshold=2.0,
        weight_decay=0.1,
    ),
    pair("adafactor", "Adafactor", _ADAFACTOR, clip_threshold=0.9),
    pair("lamb", "Lamb"),
    pair("lamb", "Lamb", beta_1=0.8, beta_2=0.95, epsilon=1e-5, weight_decay=0.1),
    moving("adam", "Adam", "beta_1", "beta_2", "epsilon"),
    moving("adamw", "AdamW", "beta_1", "beta_2", "epsilon", "weight_decay"),
    moving("adamax", "Adamax", "beta_1", "beta_2", "epsilon"),
    moving("nadam", "Nadam", "beta_1", "beta_2", "epsilon"),
    moving("adagrad", "Adagrad", "epsilon"),
    moving("adadelta", "Adadelta", "rho", "epsilon"),
    moving("rmsprop", "RMSprop", "rho", "epsilon"),
    moving("lion", "Lion", "beta_1", "beta_2"),
    moving("lamb", "Lamb", "beta_1", "beta_2", "epsilon"),
]
