"""The trust ratio: scales the step of a layer by the norm of the layer.

    r = c·‖θ‖ / (‖u‖ + ε),    1 where ‖θ‖ or ‖u‖ is 0

for a step along u. With ε = 0 every layer moves by the same fraction c of its own norm. A layer is
a leaf. The ratio of a layer at zero is 1, as in optax and Keras (the papers do not say).
"""

from __future__ import annotations

from typing import Any

from optstudy_core.arrays.namespace import Array, namespace


def trust_ratio(weights: Array, update: Array, coefficient: Any = 1.0, eps: Any = 0.0) -> Array:
    """Return r for the norms ‖θ‖ and ‖u‖, a scalar for each leaf.

    >>> import numpy as np
    >>> trust_ratio(np.array([6.0, 0.0, 6.0]), np.array([3.0, 3.0, 0.0])).tolist()
    [2.0, 1.0, 1.0]
    """
    xp = namespace(weights)
    none = (weights == 0) | (update == 0)
    return xp.where(none, 1.0, coefficient * weights) / xp.where(none, 1.0, update + eps)
