"""Pairs of ours and a library's optimizer, and what both sides of a pair are given.

The pairs themselves stand in ``parity.peers``, and ``parity.conformance`` measures them.
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
    """What both sides are given.

    Attributes:
        begin: the parameters, one array a leaf.
        grads: the gradients of each step.
        rates: the learning rate of each step; ``None``: the one of the settings.
        gaps: whether the gradient of leaf ``i`` at step ``t`` is ``None``, as ``(t, i)``.
        inputs: what some algorithms are given besides, at each step: ``value``, a number, and
            ``hessian``, one array a leaf.
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
"""Trains on a problem and returns the parameters after every step."""


@dataclass(frozen=True)
class Peer:
    """A library's optimizer and the settings of ours that should be the same.

    Attributes:
        algorithm: a name of ``ALGORITHMS``, or of ``WRAPPERS``: then it goes around Adam.
        dialect: which library's formulas.
        name: of the peer, e.g. ``torch.optim.Adam``.
        settings: its arguments, for the table.
        ours: runs ours.
        theirs: runs the library's.
        scheduled: whether the learning rate can change from step to step.
        gaps: whether a gradient can be ``None``.
        even: train on gradients of one size: eigenvectors of tiny eigenvalues are mere roundings,
            and those of two libraries have nothing in common.
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
        """What it is called in tests and tables."""
        return f"{self.algorithm} {self.dialect}: {self.name}({show(self.settings)})"

    @property
    def difference(self) -> Difference | None:
        """How the two differ, as is expected; ``None`` where they must be the same."""
        return EXPECTED.get(self.label)


def show(settings: Mapping[str, Any]) -> str:
    """Return arguments as they are written."""
    return ", ".join(f"{k}={v!r}" for k, v in settings.items())


def rule(name: str) -> Algorithm:
    """Return an algorithm, or a wrapper around Adam, by its name."""
    return WRAPPERS[name](ALGORITHMS["adam"]) if name in WRAPPERS else find(name)


def parameters(state: Any, params: Leaves) -> Leaves:
    """Return the parameters: what is compared, if nothing else is asked for."""
    del state
    return params


def core(
    algorithm: str | Algorithm,
    dialect: str | None,
    seen: Callable[[Any, Leaves], Leaves] = parameters,
    move: Callable[[int], Mapping[str, float]] = lambda t: {},
    **hyperparameters: Any,
) -> Runner:
    """Return what runs an algorithm in NumPy: the definition of every backend's result.

    Args:
        algorithm: an algorithm, or a name for :func:`rule`.
        dialect: which library's formulas.
        seen: what is compared, of the state and the parameters after a step; the parameters.
        move: the hyperparameters that change, as they are at a step.
        hyperparameters: those that are not the dialect's.
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
    """Return the average of the parameters that a state of ``averaged`` holds."""
    average: Leaves = state.average
    return average
