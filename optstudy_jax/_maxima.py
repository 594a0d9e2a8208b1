"""Maxima along axes of arrays on a mesh, all in one all-reduce.

Each device writes the maxima of its part at their place in the whole array, and all devices join
the arrays. The maxima are joined as integers in the order of the floats, with NaN as the largest,
because a maximum of floats over devices may lose NaN.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from optstudy_core.arrays.axes import max_of_rest

from ._derivatives import with_derivative
from ._parts import Cuts, on_parts


def is_maximum(function: Callable[..., Any]) -> TypeGuard[functools.partial[Any]]:
    """Return whether a function that selects elements is a maximum."""
    return isinstance(function, functools.partial) and function.func is max_of_rest


def over_devices(function: functools.partial[Any], x: Any) -> Any:
    """Return the maximum (see :func:`is_maximum`) of a traced array on a mesh."""
    axis = function.keywords["axis"]

    def of_parts(sizes: dict[str, int], cuts: Cuts, part: Any) -> Any:
        own = _integer(function(part))
        along = tuple(name for name in sizes if any(name in c for c in cuts[0]))
        if cuts[0][axis]:
            least = np.iinfo(own.dtype).min
            start = jax.lax.axis_index(cuts[0][axis]) * own.shape[0]
            own = jax.lax.dynamic_update_slice(
                jnp.full((x.shape[axis],), least, own.dtype), own, (start,)
            )
        return (_float(jax.lax.pmax(own, along) if along else own, x.dtype),)

    def found(x: Any) -> Any:
        return on_parts(of_parts, lambda x: (_float(function(_integer(x)), x.dtype),), (x,))[0]

    def slopes(arrays: Any, _: Any, tangents: Any) -> Any:
        return jax.jvp(function, arrays, tangents)[1]

    return with_derivative(found, slopes)(x)


def _integer(x: Any) -> Any:
    kind = np.int64 if x.dtype.itemsize == 8 else np.int32
    bits = jax.lax.bitcast_convert_type(jnp.where(x == x, x, np.asarray(np.nan, x.dtype)), kind)
    return _turned(bits)


def _float(x: Any, dtype: Any) -> Any:
    return jax.lax.bitcast_convert_type(_turned(x), dtype)


def _turned(bits: Any) -> Any:
    """Reverse the order of the bits of negative floats, and back."""
    info = np.iinfo(bits.dtype)
    return bits ^ (
        (bits >> np.asarray(info.bits - 1, bits.dtype)) & np.asarray(info.max, bits.dtype)
    )
