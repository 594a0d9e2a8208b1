"""Properties of an algorithm that follow from one run on a small array of NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optstudy_core.arrays.blocks import ARGUMENTS
from optstudy_core.arrays.leaves import Leaves, Reduction
from optstudy_core.arrays.numpy_backend import NumPy


def first_state(algorithm: Any, hyperparameters: Mapping[str, Any]) -> Any:
    """Return the state of a small matrix before its first step."""
    # A traced array has no value; an array of NumPy replaces it.
    plain = {
        k: np.ones(()) if hasattr(v, "dtype") else v
        for k, v in hyperparameters.items()
        if k not in ARGUMENTS  # the matrix may lack the axes that they name
    }
    return algorithm.start(Leaves([np.zeros((2, 3))], NumPy()), plain)


def sums(algorithm: Any) -> frozenset[bool]:
    """Return the sums that an algorithm uses in any dialect: over a leaf (False), or all (True)."""
    watch = _Watch()
    one, scalar = (Leaves([np.ones(shape)], watch) for shape in ((2, 3), ()))
    for dialect in algorithm.dialects or [None]:
        values = algorithm.defaults(dialect)
        given = dict.fromkeys(algorithm.inputs, scalar)  # fits both a value and a Hessian
        algorithm.update(algorithm.start(one, values), one, one, **given, **values)
    return frozenset(watch.seen)


class _Watch(NumPy):
    """A namespace that remembers the sums that were used."""

    def __init__(self) -> None:
        self.seen: set[bool] = set()

    def reduce(self, function: Reduction, trees: Sequence[Leaves], whole: bool) -> Leaves:
        self.seen.add(whole)
        return super().reduce(function, trees, whole)
