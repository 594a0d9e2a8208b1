"""The functions for an array, in the only module of the core that deals with libraries."""

from __future__ import annotations

from typing import Any

import array_api_compat

Array = Any
"""An array of any library, or the :class:`~optstudy_core.leaves.Leaves` of one."""


def namespace(x: Array) -> Any:
    """Return the array API namespace ``xp`` that belongs to ``x``.

    Args:
        x: a NumPy or JAX array, a torch tensor, or any array with ``__array_namespace__``
            (arrays from the adapters have one).

    Returns:
        the module or object with ``sqrt``, ``where``, ``zeros_like``, … for ``x``.

    Raises:
        TypeError: if ``x`` is no array.

    >>> import numpy as np
    >>> float(namespace(np.ones(3)).sqrt(np.float64(4.0)))
    2.0
    """
    own = getattr(x, "__array_namespace__", None)
    if own is not None and not isinstance(x, type):
        return own()
    return array_api_compat.array_namespace(x)


def scalar(like: Array, value: float) -> Array:
    """Return a 0-d array with ``value``, in the dtype and on the device of ``like``.

    For a tree it is one scalar per leaf, so that leaves are independent.

    >>> import numpy as np
    >>> scalar(np.ones(3, dtype="float32"), 0.5).dtype
    dtype('float32')
    """
    return _scalar(like, value, like.dtype)


def no_steps(like: Array) -> Array:
    """Return a count of 0 steps, int32; for a tree a count for each leaf.

    >>> import numpy as np
    >>> no_steps(np.ones(3)).dtype
    dtype('int32')
    """
    if hasattr(like, "backend"):
        return like.backend.no_steps(like)
    return _scalar(like, 0, namespace(like).int32)


def _scalar(like: Array, value: float, dtype: Any) -> Array:
    # A scalar of JAX goes to the device of its use; .device is a sharding that may not fit it.
    device = None if array_api_compat.is_jax_array(like) else array_api_compat.device(like)
    return namespace(like).full((), value, dtype=dtype, device=device)


def absent(hyperparameter: Any) -> bool:
    """Return whether a term is left out, because its factor is the Python number 0.

    A factor that is an array (a traced value, an injected hyperparameter) is never absent, because
    formulas do not branch on values of arrays. An absent term is not computed. So ``0 * inf``
    cannot give NaN, and parameters are not needed.

    >>> absent(0.0), absent(0.1)
    (True, False)
    """
    return isinstance(hyperparameter, int | float) and hyperparameter == 0
