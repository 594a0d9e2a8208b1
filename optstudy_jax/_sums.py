"""Sums over vectors on the device: exact for formulas and geometry, plain for geometry.

The code of ``optstudy_core.exact_sum`` runs here on float64 arrays (``jax.enable_x64`` inside), so
the results have the same bits as in NumPy and torch. Arrays on a mesh are summed together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from optstudy_core.arrays.leaves import Leaves

from ._derivatives import of_sum, with_derivative
from ._joined import joined
from ._parts import are_on_a_mesh
from ._passes import Plain, Traced
from ._rounding import leaving

_TRACED, _PLAIN = Traced(), Plain()


def on_device(function: Callable[..., Any], exact: bool, columns: Any) -> Any:
    """Return exact or plain sums of a function of a library over vectors, float64 scalars."""
    return _found(function, exact, [columns])[0]


def each_on_device(function: Callable[..., Any], rows: Sequence[Any]) -> list[Any]:
    """Return the exact sums of a function of a library over the vectors of each row."""
    if are_on_a_mesh(rows):
        return list(_found(function, True, list(rows)))
    return [on_device(function, True, row) for row in rows]


@partial(jax.jit, static_argnums=(0, 1))
def _found(function: Callable[..., Any], exact: bool, rows: Any) -> Any:
    def of_row(columns: Any, library: Any = _TRACED, exact: bool = exact) -> Any:
        with jax.enable_x64(True):
            vectors = [[jnp.asarray(x) for x in column if jnp.size(x) > 0] for column in columns]
            result = function(library, *vectors, exact=exact)
            return tuple(map(_value, result)) if isinstance(result, tuple) else _value(result)

    def of_rows(rows: Any) -> Any:
        if exact and are_on_a_mesh(rows):
            return joined(lambda columns, library: of_row(columns, library), of_row, rows)
        return [of_row(columns) for columns in rows]

    def rule(arrays: Any, results: Any, tangents: Any) -> Any:
        (rows,), (slopes,) = arrays, tangents
        one = of_sum(lambda *columns: of_row(columns, _PLAIN, False))
        return [one(*row) for row in zip(rows, results, slopes, strict=True)]

    return with_derivative(of_rows, rule)(rows)


def _value(result: Any) -> Any:
    if isinstance(result, Leaves):
        return leaving(result.values[0])
    return jnp.asarray(result, jnp.float64)
