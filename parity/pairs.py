"""Pairs of our optimizer and that of a library, and their common inputs.

The pairs are in ``parity.peers``, and ``parity.conformance`` measures them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optstudy_core import ALGORITHMS, WRAPPERS, Algorithm
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_core.catalogue.table import find

from .differences import EXPECTED, Difference

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Problem:
    """The inputs of both optimizers.

    Attributes:
        begin: the parameters, one array for each leaf.
        grads: the gradients of each step.
        rates: the learning rate of each step; ``None``: that of the settings.
        gaps: the pairs ``(t, i)`` for which the gradient of leaf ``i`` at step ``t`` is ``None``.
        inputs: other inputs of some algorithms at each step: ``value``, a number, and ``hessian``,
            one array for each leaf.
    """

    begin: Arrays
    grads: list[Arrays]
    rates: tuple[float, ...] | None = None
    gaps: frozenset[tuple[int, int]] = frozenset()
    inputs: tuple[dict[str, Any], ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the parameters."""
        return self.begin[0].dtype


Runner = Callable[[Problem], list[Arrays]]
"""A function that trains on a problem and returns the parameters after every step."""


@dataclass(frozen=True)
class Peer:
    """The optimizer of a library, and our optimizer with equivalent settings.

    Attributes:
        algorithm: a name in ``ALGORITHMS``, or in ``WRAPPERS`` for a wrapper around Adam.
        dialect: the dialect.
        name: the name of the peer, e.g. ``torch.optim.Adam``.
        settings: the arguments of the peer, for the table.
        ours: a function that runs our optimizer.
        theirs: a function that runs the peer.
        scheduled: whether the learning rate can change from step to step.
        gaps: whether a gradient can be ``None``.
        even: whether to use gradients of one magnitude, because eigenvectors of tiny eigenvalues
            depend on rounding alone and differ between libraries.
    """

    algorithm: str
    dialect: str
    name: str
    settings: Mapping[str, Any]
    ours: Runner
    theirs: Runner
    scheduled: bool = True
    gaps: bool = False
    even: bool = False

    @property
    def label(self) -> str:
        """The name of the pair in tests and tables."""
        return f"{self.algorithm} {self.dialect}: {self.name}({show(self.settings)})"

    @property
    def difference(self) -> Difference | None:
        """The expected difference; ``None`` if the two must be the same."""
        return EXPECTED.get(self.label)


def show(settings: Mapping[str, Any]) -> str:
    """Return arguments as source text."""
    return ", ".join(f"{k}={v!r}" for k, v in settings.items())


def rule(name: str) -> Algorithm:
    """Return an algorithm, or a wrapper around Adam, by its name."""
    return WRAPPERS[name](ALGORITHMS["adam"]) if name in WRAPPERS else find(name)


def parameters(state: Any, params: Leaves) -> Leaves:
    """Return the parameters, which are compared by default."""
    del state
    return params


def core(
    algorithm: str | Algorithm,
    dialect: str | None,
    seen: Callable[[Any, Leaves], Leaves] = parameters,
    move: Callable[[int], Mapping[str, float]] = lambda t: {},
    **hyperparameters: Any,
) -> Runner:
    """Return a function that runs an algorithm in NumPy, the definition of all results.

    Args:
        algorithm: an algorithm, or a name for :func:`rule`.
        dialect: the dialect.
        seen: a function of the state and the parameters after a step that returns the arrays to
            compare; by default the parameters.
        move: a function that returns the changing hyperparameters at a step.
        hyperparameters: hyperparameters that differ from the dialect.
    """
    found = rule(algorithm) if isinstance(algorithm, str) else algorithm
    values = found.resolve(dialect, hyperparameters)

    def run(problem: Problem) -> list[Arrays]:
        theta = Leaves(problem.begin, NumPy())
        state = found.start(theta, values)
        trajectory = []
        for t, grads in enumerate(problem.grads):
            now = values | ({} if problem.rates is None else {"lr": problem.rates[t]})
            now |= move(t)
            for name in found.inputs:
                x = problem.inputs[t][name]
                now[name] = Leaves(x if isinstance(x, list) else [x] * len(grads), NumPy())
            with np.errstate(all="ignore"):
                state, step = found.update(state, Leaves(grads, NumPy()), theta, **now)
                theta = theta + step
            trajectory.append([np.asarray(x) for x in seen(state, theta).values])
        return trajectory

    return run


def average_of(state: Any, params: Leaves) -> Leaves:
    """Return the average of the parameters in a state of ``averaged``."""
    average: Leaves = state.average
    return average
