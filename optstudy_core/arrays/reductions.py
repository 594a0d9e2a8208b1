"""Sums over elements for formulas: exact sums, which do not depend on order, split or library.

``leaf_…`` returns a scalar for each leaf, from that leaf alone. ``global_…`` returns the same
number for every leaf, from all leaves of one optimizer (in torch: of one parameter group). The sums
are those of :mod:`optstudy_core.geometry` in float64, rounded once to the working dtype of each
leaf. There is no plain ``sum``, because it depends on the order.

The results are scalars: arrays of shape () for each leaf, in the working dtype of the leaf.

Bare arrays are computed on the host; arrays of JAX inside ``jit`` need the adapter.

>>> import numpy as np
>>> float(leaf_norm(np.float32([3.0, 4.0])))
5.0
>>> from optstudy_core.arrays.numpy_backend import NumPy
>>> tree = Leaves([np.float32([3.0]), np.float64(4.0)], NumPy())
>>> [float(x) for x in global_norm(tree).values]
[5.0, 5.0]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .exact_sum import Library, Vector
from .leaves import Leaves
from .namespace import Array, scalar
from .passes import HOST, constant
from .vectors import vector_dot, vector_norm, vector_total


def leaf_norm(x: Array) -> Array:
    """Return ‖x‖₂ of each leaf.

    Args:
        x: an array of any shape.
    """
    return _reduce(vector_norm, x)


def global_norm(x: Array) -> Array:
    """Return ‖x‖₂ of all leaves as one vector.

    Args:
        x: an array of any shape.
    """
    return _reduce(vector_norm, x, whole=True)


def leaf_dot(x: Array, y: Array) -> Array:
    """Return x·y of each leaf.

    Args:
        x: an array of any shape.
        y: an array like ``x``.
    """
    return _reduce(vector_dot, x, y)


def global_dot(x: Array, y: Array) -> Array:
    """Return x·y of all leaves as one vector.

    Args:
        x: an array of any shape.
        y: an array like ``x``.
    """
    return _reduce(vector_dot, x, y, whole=True)


def leaf_sum(x: Array) -> Array:
    """Return the sum of the elements of each leaf.

    Args:
        x: an array of any shape.
    """
    return _reduce(vector_total, x)


def global_sum(x: Array) -> Array:
    """Return the sum of the elements of all leaves.

    Args:
        x: an array of any shape.
    """
    return _reduce(vector_total, x, whole=True)


def leaf_mean(x: Array) -> Array:
    """Return the mean of the elements of each leaf; 0 for an empty leaf.

    Args:
        x: an array of any shape.
    """
    return _reduce(_vector_mean, x)


def leaf_rms(x: Array) -> Array:
    """Return √(mean of x²) of each leaf; 0 for an empty leaf.

    Args:
        x: an array of any shape.
    """
    return _reduce(_vector_rms, x)


def _vector_mean(library: Library, x: Vector, *, exact: bool) -> Any:
    return vector_total(library, x, exact=exact) / library.sizes(x)


def _vector_rms(library: Library, x: Vector, *, exact: bool) -> Any:
    return vector_norm(library, x, exact=exact) / np.sqrt(library.sizes(x))


def _reduce(function: Callable[..., Any], *arrays: Array, whole: bool = False) -> Array:
    first = arrays[0]
    if isinstance(first, Leaves):
        return first.backend.reduce(function, arrays, whole)
    vectors = [[constant(x)] if math.prod(x.shape) else [] for x in arrays]
    return scalar(first, float(function(HOST, *vectors, exact=True)))
