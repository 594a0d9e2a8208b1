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
    one = Leaves([np.ones((2, 3))], watch)
    for dialect in algorithm.dialects or [None]:
        values = algorithm.defaults(dialect)
        _updated(algorithm, algorithm.start(one, values), one, values)
    return Uses(frozenset(watch.sums), watch.matrices)


def _updated(algorithm: Any, state: Any, one: Leaves, values: Mapping[str, Any]) -> Any:
    """Return the result of an update, with ``one`` as gradient and as parameters."""
    scalar = Leaves([np.ones(())], one.backend)
    given = dict.fromkeys(algorithm.inputs, scalar)  # fits both a value and a Hessian
    return algorithm.update(state, one, one, **given, **values)


def check(algorithm: Any) -> None:
    """Refuse common mistakes in a formula, with what to write instead.

    Raises:
        TypeError: if the update calls a function of a library on arrays, or does not return a state
            like that of ``init`` and a step.
    """
    begin = None
    try:
        values = algorithm.defaults(next(iter(algorithm.dialects), None))
        one = Leaves([np.ones((2, 3))], NumPy())
        begin = algorithm.start(one, values)
        made = _updated(algorithm, begin, one, values)
    except TypeError as error:
        if "Leaves" not in str(error):
            return  # not about arrays: the step will show it
        function = f"{'init' if begin is None else 'update'} of {algorithm.name!r}"
        raise TypeError(
            f"{function}: {error}. Allowed are operators, the functions of xp = namespace(grad), "
            "such as xp.sqrt(x), and those of optstudy_core"
        ) from error
    except Exception:  # of a rule that needs other arrays: the step will show it
        return
    is_pair = isinstance(made, tuple) and len(made) == 2
    if not (is_pair and type(made[0]) is type(begin) and isinstance(made[1], Leaves)):
        kinds = ", ".join(map(_kind, made if isinstance(made, tuple) else (made,)))
        raise TypeError(
            f"update of {algorithm.name!r} returned {kinds}: allowed is the pair (state, step), "
            f"here {_kind(begin)} and an array"
        )


def _kind(value: Any) -> str:
    return "an array" if isinstance(value, Leaves) else type(value).__name__


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
