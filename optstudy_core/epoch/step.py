"""Size and direction of the step of an epoch.

    Δₖ = θ(end of k) − θ(start of k)
    size ‖Δₖ‖₂,    direction: the angle φₖ between Δₖ and Δₖ₋₁

Both come from exact sums (:mod:`optstudy_core.geometry`), so they do not depend on the order, the
split, the device or the library. Decisions use the cosine. The angle is for people; it is also
accurate near 0° and 180°.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from optstudy_core.arrays import geometry


class StepMeasured(NamedTuple):
    """Measurements of the step of an epoch.

    Attributes:
        size: ‖Δₖ‖₂.
        cosine: cos φₖ; NaN in the first epoch, or if a step is zero or not finite.
        angle: φₖ in degrees, from 0 to 180; NaN if the cosine is NaN.
    """

    size: float
    cosine: float
    angle: float


def difference(end: Any, start: Any) -> Any:
    """Return Δ = θ(end) − θ(start), in the dtype of the parameters.

    Args:
        end: the parameters at the end, a tree of arrays of NumPy or PyTorch.
        start: the parameters at the start, a tree with the same structure and shapes.

    Raises:
        ValueError: if the structures or the shapes differ.

    >>> difference({"w": np.float32([3.0, 1.0])}, {"w": np.float32([1.0, 1.0])})["w"].tolist()
    [2.0, 0.0]
    """
    with np.errstate(all="ignore"):
        return geometry.map_tree(lambda x, y: x - y, end, start)


def measure(step: Any, previous: Any = None, *, exact: bool = True) -> StepMeasured:
    """Return the size of a step and its angle to the step before.

    Args:
        step: Δₖ, a tree of arrays.
        previous: Δₖ₋₁, a tree with the same structure; ``None`` in the first epoch.
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
