"""What is learned of an algorithm by running it once on a small array of NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optstudy_core.arrays.blocks import ARGUMENTS
from optstudy_core.arrays.leaves import Leaves, Reduction
from optstudy_core.arrays.numpy_backend import NumPy


def first_state(algorithm: Any, hyperparameters: Mapping[str, Any]) -> Any:
    """Return the state of a small matrix before its first step."""
    # A traced array has no value to compute with; one of NumPy is as little absent.
    plain = {
        k: np.ones(()) if hasattr(v, "dtype") else v
        for k, v in hyperparameters.items()
        if k not in ARGUMENTS  # the matrix may lack their axes
    }
    return algorithm.start(Leaves([np.zeros((2, 3))], NumPy()), plain)


def sums(algorithm: Any) -> frozenset[bool]:
    """Return which sums an algorithm asks for in any dialect: of leaves (False), of all (True)."""
    watch = _Watch()
    one, scalar = (Leaves([np.ones(shape)], watch) for shape in ((2, 3), ()))
    for dialect in algorithm.dialects or [None]:
        values = algorithm.defaults(dialect)
        given = dict.fromkeys(algorithm.inputs, scalar)  # it fits a value and a Hessian
        algorithm.update(algorithm.start(one, values), one, one, **given, **values)
    return frozenset(watch.seen)


class _Watch(NumPy):
    """Remembers which sums were asked for."""

    def __init__(self) -> None:
        self.seen: set[bool] = set()

    def reduce(self, function: Reduction, trees: Sequence[Leaves], whole: bool) -> Leaves:
        self.seen.add(whole)
        return super().reduce(function, trees, whole)
