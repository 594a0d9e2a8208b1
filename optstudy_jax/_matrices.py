"""Which rules compute with matrices."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from optstudy_core import Algorithm
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numpy_backend import NumPy


@functools.cache
def has_matrices(algorithm: Algorithm) -> bool:
    """Return whether a rule has products, roots or eigenvectors of matrices, in any dialect."""
    watch = _Watch()
    one, scalar = (Leaves([np.ones(shape)], watch) for shape in ((2, 3), ()))
    for dialect in algorithm.dialects or [None]:
        values = algorithm.defaults(dialect)
        given = dict.fromkeys(algorithm.inputs, scalar)  # it fits a value and a Hessian
        algorithm.update(algorithm.start(one, values), one, one, **given, **values)
    return watch.found


class _Watch(NumPy):
    """Remembers whether it was asked for a function of whole matrices."""

    found = False

    def in_double(
        self, function: Callable[..., Leaves], *trees: Leaves, axis: int | None = None
    ) -> Leaves:
        self.found |= axis is None
        return super().in_double(function, *trees, axis=axis)
