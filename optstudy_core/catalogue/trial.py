"""Properties of an algorithm that follow from one run on a small array of NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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


class Uses(NamedTuple):
    """The features of a rule, in any dialect.

    Attributes:
        sums: the sums: over a leaf (False), or over all leaves (True).
        matrices: products, roots or eigenvectors of whole matrices.
    """

    sums: frozenset[bool]
    matrices: bool


def uses(algorithm: Any) -> Uses:
    """Return the features of an algorithm."""
    watch = _Watch()
    one, scalar = (Leaves([np.ones(shape)], watch) for shape in ((2, 3), ()))
    for dialect in algorithm.dialects or [None]:
        values = algorithm.defaults(dialect)
        given = dict.fromkeys(algorithm.inputs, scalar)  # fits both a value and a Hessian
        algorithm.update(algorithm.start(one, values), one, one, **given, **values)
    return Uses(frozenset(watch.sums), watch.matrices)


class _Watch(NumPy):
    """A namespace that records used sums and functions of whole matrices."""

    def __init__(self) -> None:
        self.sums: set[bool] = set()
        self.matrices = False

    def reduce(self, function: Reduction, trees: Sequence[Leaves], whole: bool) -> Leaves:
        self.sums.add(whole)
        return super().reduce(function, trees, whole)

    def in_double(
        self, function: Callable[..., Leaves], *trees: Leaves, axis: int | None = None
    ) -> Leaves:
        self.matrices |= axis is None
        return super().in_double(function, *trees, axis=axis)
