"""Activations: the outputs of the layers of a network in a step, and their gradients.

The quantities need four sums of each array. The adapters deliver the arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from optstudy_core.arrays.namespace import Array, namespace

ACTIVATIONS: Final = ("act_rms", "act_max", "act_zeros", "act_grad_rms", "act_grad_max")
"""Names: root mean square, largest absolute value and fraction of zeros of the output of a layer;
root mean square and largest absolute value of the gradient of the output."""


def activation_sums(x: Array) -> Array:
    """Return the sums for :func:`activation_quantities`.

    Args:
        x: float array of any shape: the output of a layer, or the gradient of the output.

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
    """Return quantities of the activations of a layer in a step.

    ``act_zeros`` near 1 means dead units of a ReLU. ``act_rms`` that grows from layer to layer, or
    ``act_grad_rms`` that shrinks, means a bad initialisation.

    Args:
        names: names from :data:`ACTIVATIONS`.
        sums: results of :func:`activation_sums`, one for each call of the layer.
        grads: results of :func:`activation_sums` for the gradients; empty without gradients.

    Returns:
        one number for each name; NaN if it is not known.

    Source: Glorot and Bengio 2010, who compare both from layer to layer.
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
