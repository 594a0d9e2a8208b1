"""Size and direction of an epoch's step.

    Δₖ = θ(end of k) − θ(start of k)
    size ‖Δₖ‖₂,    direction: the angle φₖ between Δₖ and Δₖ₋₁

From exact sums (:mod:`optstudy_core.geometry`): no order, split, device or library matters. The
cosine is for decisions. The angle, accurate near 0° and 180° too, is for people.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from optstudy_core.arrays import geometry


class StepMeasured(NamedTuple):
    """Measurements of an epoch's step.

    Attributes:
        size: ‖Δₖ‖₂.
        cosine: cos φₖ; NaN in the first epoch, and where a step is zero or not finite.
        angle: φₖ in degrees, from 0 to 180; NaN where the cosine is.
    """

    size: float
    cosine: float
    angle: float


def difference(end: Any, start: Any) -> Any:
    """Return Δ = θ(end) − θ(start), in the dtype of the parameters.

    Args:
        end: tree of arrays of NumPy or PyTorch.
        start: tree of the same structure and shapes.

    Raises:
        ValueError: if structures or shapes differ.

    >>> difference({"w": np.float32([3.0, 1.0])}, {"w": np.float32([1.0, 1.0])})["w"].tolist()
    [2.0, 0.0]
    """
    with np.errstate(all="ignore"):
        return geometry.map_tree(lambda x, y: x - y, end, start)


def measure(step: Any, previous: Any = None, *, exact: bool = True) -> StepMeasured:
    """Return the size of a step and its angle to the one before.

    Args:
        step: Δₖ, a tree of arrays.
        previous: Δₖ₋₁ of the same structure; ``None`` in the first epoch.
        exact: see :mod:`optstudy_core.geometry`.

    >>> measure([np.array([0.0, 2.0])], [np.array([3.0, 0.0])])
    StepMeasured(size=2.0, cosine=0.0, angle=90.0)
    """
    size = geometry.norm(step, exact=exact)
    if previous is None:
        return StepMeasured(size, float("nan"), float("nan"))
    cosine = geometry.cosine(step, previous, exact=exact)
    angle = geometry.angle(step, previous, degrees=True, exact=exact)
    return StepMeasured(size, cosine, angle)
