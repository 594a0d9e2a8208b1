"""Activations: what the layers of a network put out in a step, and the gradients of that.

Four sums of each array are enough; the adapters deliver the arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from optstudy_core.arrays.namespace import Array, namespace

ACTIVATIONS: Final = ("act_rms", "act_max", "act_zeros", "act_grad_rms", "act_grad_max")
"""Names: the root of the mean square, the largest absolute value and the share of zeros of what a
layer puts out; the first two of its gradient as well."""


def activation_sums(x: Array) -> Array:
    """Return what :func:`activation_quantities` is made of.

    Args:
        x: float array of any shape: what a layer puts out, or its gradient.

    Returns:
        array of shape (4,): number of elements, Σx², max |x|, number of zeros.

    Cost: three passes over the array.

    >>> activation_sums(np.float32([0.0, 3.0, -4.0])).tolist()
    [3.0, 25.0, 4.0, 1.0]
    """
    xp = namespace(x)
    x = x if x.dtype in (xp.float32, xp.float64) else xp.astype(x, xp.float32)
    flat = xp.reshape(x, (-1,))
    number = flat.shape[0]
    largest = xp.max(xp.abs(flat)) if number else xp.zeros((), dtype=flat.dtype)
    zeros = xp.sum(xp.where(flat == 0, xp.ones_like(flat), xp.zeros_like(flat)))
    count = xp.full_like(largest, float(number))
    return xp.stack([count, xp.sum(flat * flat), largest, zeros])


def activation_quantities(
    names: Iterable[str], sums: Sequence[Any], grads: Sequence[Any]
) -> Mapping[str, float]:
    """Return quantities of a layer's activations in a step.

    ``act_zeros`` near 1 are dead units of a ReLU; ``act_rms`` that grows from layer to layer, and
    ``act_grad_rms`` that shrinks, are a bad initialisation.

    Args:
        names: of :data:`ACTIVATIONS`.
        sums: of :func:`activation_sums`, one for each time that the layer was called.
        grads: those of the gradients; none where there is no gradient.

    Returns:
        a number by each name; NaN where nothing is known.

    Source: Glorot and Bengio 2010, who look at both from layer to layer.
    """
    found: dict[str, float] = {}
    for prefix, parts in (("act", sums), ("act_grad", grads)):
        columns = np.asarray(parts, np.float64).reshape(-1, 4)
        count, squares, _, zeros = columns.sum(axis=0)
        with np.errstate(all="ignore"):
            found[f"{prefix}_rms"] = float(np.sqrt(squares / count))
            found[f"{prefix}_zeros"] = float(zeros / count)
        found[f"{prefix}_max"] = float(columns[:, 2].max()) if len(columns) else float("nan")
    return {name: found[name] for name in names}
